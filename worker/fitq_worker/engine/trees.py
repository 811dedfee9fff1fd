"""Structures of tensors whose last axis is the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def taken(tree: Any, at: Tensor | slice) -> Any:
    """The same tuples of tensors with these places of the last axis of every tensor; what is no tensor stays."""
    if isinstance(tree, Tensor):
        return tree[..., at].contiguous()
    if not isinstance(tree, tuple):
        return tree
    parts = [taken(part, at) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
