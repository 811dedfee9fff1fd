"""Jobs of a chunk whose frame cannot be read: enough of them to say, job by job, that they were not fitted."""

from __future__ import annotations

import pyarrow as pa

from fitq_shared.jobs.schemas import JOB_SCHEMA
from fitq_shared.store.reader import IndexedChunk

#: What a result repeats of its job.
_REPEATED = ("index", "id", "seed", "tags")


def recover_jobs(frame: bytes, entry: IndexedChunk) -> pa.RecordBatch:
    """Jobs of JOB_SCHEMA with index and id, and seed and tags where they are known; everything else is null.

    A frame of another version of fitq is an Arrow frame all the same and still has these columns. Of bytes that are no
    frame nothing is left: such jobs are numbered from the first position of the chunk, and their ids are these numbers.
    """
    found = _columns(frame)
    if not {"index", "id"} <= found.keys() or len(found["index"]) != entry.job_count:
        positions = range(entry.first, entry.first + entry.job_count)
        found = {"index": pa.array(positions, pa.int64()), "id": pa.array(map(str, positions), pa.string())}
    nothing = {field.name: pa.nulls(entry.job_count, field.type) for field in JOB_SCHEMA}
    return pa.RecordBatch.from_arrays([(nothing | found)[name] for name in JOB_SCHEMA.names], schema=JOB_SCHEMA)


def _columns(frame: bytes) -> dict[str, pa.Array]:
    """The columns that a result repeats, as far as the frame has them."""
    try:
        with pa.ipc.open_stream(frame) as reader:
            batch = reader.read_next_batch()
        types = {name: JOB_SCHEMA.field(name).type for name in _REPEATED if name in batch.schema.names}
        return {name: batch[name].cast(type_) for name, type_ in types.items()}
    except (pa.ArrowException, StopIteration, OSError):
        return {}
