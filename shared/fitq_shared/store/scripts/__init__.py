"""The Lua scripts of the store: what Redis does in one step, whoever dies in between. Each is a file with its KEYS and ARGV.

Frames do not pass through them (docs/decisions). They are stored under keys of their own just before, with a time to
live, and a script makes them part of the submission.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis
    from redis.commands.core import Script


def load_script(client: redis.Redis, name: str, *, frames: bool = False) -> Script:
    """The script `<name>.lua`, to be called with keys and args; `frames` puts the functions for frames before it."""
    names = ["clock", "frame_parts", name] if frames else ["clock", name]
    return client.register_script("\n".join(files(__name__).joinpath(f"{part}.lua").read_text() for part in names))
