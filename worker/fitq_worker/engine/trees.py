"""Structures of tensors whose last axis is the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def take(tree: Any, indices: Tensor | slice) -> Any:
    """The same tuples of tensors with these indices of the last axis of every tensor; anything else stays."""
    if isinstance(tree, Tensor):
        return tree[..., indices].contiguous()
    if not isinstance(tree, tuple):
        return tree
    parts = [take(part, indices) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
