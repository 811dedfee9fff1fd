"""JSON as people write it: NaN and Infinity are numbers, and an object that gives a key twice is refused."""

from __future__ import annotations

import json
from typing import Any

from fitq_shared.errors import JobError


def decode_json(text: bytes | str, place: str | None = None) -> Any:
    """What `text` holds; the literals NaN, Infinity and -Infinity, which Python's json writes, are floats.

    Raises:
        JobError: not JSON, or a key that occurs twice in one object; the error names `place`.
    """
    repeated: list[tuple[str, Any]] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(pair for number, pair in enumerate(pairs) if pair[0] in names[:number])
        return found

    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=object_of)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a character is no text
    except (ValueError, RecursionError) as error:
        rule = f'not a JSON object: {_reason(error)}; one job a line is expected, such as {{"x": [0, 1], "y": [1, 3]}}'
        raise JobError(rule, place=place) from None
    if repeated:
        field, second = repeated[0]
        job = value.get("id") if isinstance(value, dict) else None
        rule = "given before in the same object; keep one of them"
        raise JobError(rule, field=field, value=second, job=None if job is None else str(job), place=place)
    return value


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
