"""Jobs of a chunk whose frame cannot be read: enough of them to say, job by job, that they were not fitted."""

from __future__ import annotations

import pyarrow as pa

from fitq_shared.errors import FrameError
from fitq_shared.jobs.frame_rules import check_positions
from fitq_shared.jobs.frames import not_a_frame
from fitq_shared.jobs.schemas import JOB_SCHEMA
from fitq_shared.jobs.unpacked_size import check_unpacked_size
from fitq_shared.store.reader import IndexedChunk

#: What a result repeats of its job; the first two it cannot do without.
_REPEATED = ("index", "id", "seed", "tags")


def recover_jobs(frame: bytes, entry: IndexedChunk) -> pa.RecordBatch:
    """Jobs of JOB_SCHEMA with index and id, and seed and tags where they are known; everything else is null.

    A frame of another version of fitq is an Arrow frame all the same and still has these columns. Of bytes that are no
    frame, or of other jobs, nothing is left: such jobs are numbered from the first position of the chunk, and their ids are
    these numbers.
    """
    try:
        jobs = _jobs(_columns(frame))
        check_positions(jobs, entry.job_count, entry.first, entry.last)
    except FrameError:
        positions = range(entry.first, entry.first + entry.job_count)
        jobs = _jobs({"index": pa.array(positions, pa.int64()), "id": pa.array(map(str, positions), pa.string())})
    return jobs


def _columns(frame: bytes) -> dict[str, pa.Array]:
    """The columns that a result repeats, as far as the frame has them.

    Raises:
        FrameError: it has no index and id, or is no frame.
    """
    with not_a_frame():
        check_unpacked_size(frame)
        with pa.ipc.open_stream(frame) as reader:
            places = [place for name in _REPEATED if (place := reader.schema.get_field_index(name)) >= 0]
        if not places:
            raise FrameError("none of the columns of a job")
        with pa.ipc.open_stream(frame, options=pa.ipc.IpcReadOptions(included_fields=places)) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)
        found = {name: batch[name].cast(JOB_SCHEMA.field(name).type) for name in batch.schema.names}
    if any(name not in found or found[name].null_count for name in ("index", "id")):
        raise FrameError("jobs without a position or an id")
    return found


def _jobs(columns: dict[str, pa.Array]) -> pa.RecordBatch:
    rows = len(columns["index"])
    arrays = [columns.get(field.name, pa.nulls(rows, field.type)) for field in JOB_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=JOB_SCHEMA)
