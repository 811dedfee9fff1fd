"""Lines of JSON become structs that know which keys they gave; those that need a closer look are told apart.

A line that gives a key twice is read like any other, the last value winning. Its colons tell: a line has one for each key,
and others only in its texts.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, get_type_hints

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from fitq_shared.jobs.job import FitJob, Samples

#: Field -> its value in each line, None where it does not give one; fields that no line gives are left out.
Fields: TypeAlias = Mapping[str, Sequence[Any]]
Counts: TypeAlias = NDArray[np.int64]

#: Lines that are searched for colons at once.
_PIECE = 64
_ESCAPED_COLON = re.compile(rb"\\u003[aA]")


class Lines(NamedTuple):
    """Decoded lines, and the rows of those that are not what msgspec takes for a job."""

    jobs: list[Any]
    refused: list[int]


@functools.cache  # it takes longer than a thousand lines do
def line_type(overridden: frozenset[str] = frozenset()) -> type[msgspec.Struct]:
    """A struct of what lines may hold; fields that are overridden may hold anything."""
    # What has keys of its own has to be known, for keys are counted.
    unseen = dict.fromkeys(overridden - {"samples", "tags"}, Any)
    name = get_type_hints(FitJob, include_extras=True)["id"]
    return _as_given(FitJob, **{"id": name | int, "samples": _as_given(Samples), **unseen})


def decode_lines(lines: Sequence[bytes], kind: type[msgspec.Struct]) -> Lines:
    """The lines as structs of `kind`; one that is refused gives nothing."""
    decode = msgspec.json.Decoder(kind).decode
    try:
        return Lines(list(map(decode, lines)), [])
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # some are refused, and perhaps only few
    found = Lines([], [])
    for row, line in enumerate(lines):
        try:
            found.jobs.append(decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            found.jobs.append(kind())
            found.refused.append(row)
    return found


def _as_given(struct: type[msgspec.Struct], **types: Any) -> type[msgspec.Struct]:
    """`struct` with fields that may all be null or left out; `types` are those of fields that take more."""
    types = get_type_hints(struct, include_extras=True) | types
    fields = [(name, types[name] | None | UnsetType, UNSET) for name in struct.__struct_fields__]
    return msgspec.defstruct(struct.__name__, fields, kw_only=True, forbid_unknown_fields=True, gc=False)


def given_fields(jobs: Sequence[Any]) -> tuple[Fields, Counts]:
    """The fields that any of the jobs gives, and the number of keys in each line, those of `samples` and `tags` included."""
    fields: dict[str, Sequence[Any]] = {}
    keys = np.zeros(len(jobs), dtype=np.int64)
    columns = zip(*map(msgspec.structs.astuple, jobs), strict=True)
    for name, values in zip(FitJob.__struct_fields__, columns, strict=True):
        if (missing := values.count(UNSET)) == len(jobs):
            continue
        if name == "samples":
            values = tuple(msgspec.to_builtins(value) if value else value for value in values)
        if name in ("samples", "tags"):
            keys += np.array([len(value or ()) for value in values])
        keys += np.array([value is not UNSET for value in values]) if missing else 1
        fields[name] = [None if value is UNSET else value for value in values] if missing else values
    return fields, keys


def find_doubtful(lines: Sequence[bytes], fields: Fields, keys: Counts) -> NDArray[np.bool_]:
    """Which lines may give a key twice: at least those that do, and hardly any other."""
    # No line has fewer colons than keys; so where the sums agree, each line has as many.
    none = np.zeros(len(lines), dtype=np.bool_)
    others = sum(map(_colons, _pieces(lines))) - keys.sum()
    if not others:
        return none
    texts = _texts(fields)
    escaped = [row for row, line in enumerate(lines) if b"\\" in line and _ESCAPED_COLON.search(line)]
    if not escaped and others == sum("".join(column).count(":") for column in texts):
        return none
    expected = keys + np.sum([[text.count(":") for text in column] for column in texts], axis=0, dtype=np.int64)
    expected[escaped] = keys[escaped]
    differ: NDArray[np.bool_] = np.array([_colons(line) for line in lines]) != expected
    return differ


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines in pieces that stay in the processor's cache."""
    return (b"".join(lines[start : start + _PIECE]) for start in range(0, len(lines), _PIECE))


def _colons(text: bytes) -> int:
    # Four times as fast as text.count.
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(":")))


def _texts(fields: Fields) -> list[list[str]]:
    """The texts of each line that may have colons, a list for each field."""
    texts = [list(map(str, fields[name])) for name in ("id", "trace") if name in fields]
    if "tags" in fields:
        texts.append(["".join(map(str, itertools.chain(*(tags or {}).items()))) for tags in fields["tags"]])
    return texts
