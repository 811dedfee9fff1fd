"""What is stored of a submission, for readers: the log of its commits, the rows that chunks have, their frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import pyarrow as pa

from fitq_shared.frames import JOB_SCHEMA, RESULT_SCHEMA
from fitq_shared.keys import SubmissionKeys
from fitq_shared.store import Store, translated_errors

_LOG_PAGE = 500


class Committed(NamedTuple):
    """A chunk whose frames are stored; `cursor` is its place in the log."""

    chunk: int
    jobs: int
    cursor: str


class Indexed(NamedTuple):
    """The jobs of a chunk: how many, and the smallest and largest index among them."""

    chunk: int
    jobs: int
    first: int
    last: int


def commits(store: Store, submission: str, since: str | None = None) -> list[Committed]:
    """The first commits, or the next ones after the cursor `since`, in their order; empty when there are no more.

    Raises, as all functions here: ServerUnreachable.
    """
    start = "-" if since is None else f"({since}"
    with translated_errors(store.settings.redis_url):
        log = store.redis.xrange(_keys(store, submission).log, start, count=_LOG_PAGE)
    page = cast("list[tuple[bytes, dict[bytes, bytes]]]", log)
    return [Committed(int(entry[b"chunk"]), int(entry[b"jobs"]), cursor.decode()) for cursor, entry in page]


def index(store: Store, submission: str) -> list[Indexed]:
    """The chunks added so far."""
    with translated_errors(store.settings.redis_url):
        fields = cast("dict[bytes, bytes]", store.redis.hgetall(_keys(store, submission).index))
    return [_indexed(chunk, value) for chunk, value in fields.items()]


def result_frames(store: Store, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
    """The result frame of each chunk, None where it is not committed."""
    return _frames(store, [_keys(store, submission).results(chunk) for chunk in chunks])


def trace_frames(store: Store, submission: str, chunks: Sequence[int]) -> list[bytes | None]:
    """The trace frame of each chunk, None where it is not committed or none of its jobs keeps a trace."""
    return _frames(store, [_keys(store, submission).traces(chunk) for chunk in chunks])


def chunks_with_id(store: Store, submission: str, job: str) -> list[int]:
    """The chunk that has a job with this id, or none; looks through the ids of one chunk after another."""
    names = _keys(store, submission)
    for chunk, *_ in index(store, submission):
        found = _ids(store, names.results(chunk), RESULT_SCHEMA) or _ids(store, names.jobs(chunk), JOB_SCHEMA)
        if job in found:
            return [chunk]
    return []


def _ids(store: Store, key: str, schema: pa.Schema) -> list[str]:
    """The ids in a frame of this schema, whose other columns stay packed; none where there is no frame."""
    (frame,) = _frames(store, [key])
    if frame is None:
        return []
    only_ids = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index("id")])
    with pa.ipc.open_stream(frame, options=only_ids) as reader:
        return reader.read_next_batch()["id"].to_pylist()  # type: ignore[no-any-return]


def _frames(store: Store, names: list[str]) -> list[bytes | None]:
    with translated_errors(store.settings.redis_url):
        return cast("list[bytes | None]", store.redis.mget(names)) if names else []


def _indexed(chunk: bytes, value: bytes) -> Indexed:
    first, last, jobs, _ = value.split()
    return Indexed(int(chunk), int(jobs), int(first), int(last))


def _keys(store: Store, submission: str) -> SubmissionKeys:
    return SubmissionKeys(store.settings.namespace, submission)
