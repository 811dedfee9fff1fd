"""Copying: results and traces of a submission go to files while it is being fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from fitq.results.streams import RESULTS, TRACES, Kind, Stream
from fitq.results.writers import writing


@contextmanager
def copying(
    stream: Callable[[Kind], Stream], files: tuple[Path, Path], on_results: Callable[[str, pa.RecordBatch], object]
) -> Iterator[Callable[[], None]]:
    """Give a function that copies what has been stored since its last call to the files of results and traces.

    `stream` gives the streams to copy from. The files appear at the end of the block; `on_results` is called with the
    cursor of each batch of results and the batch.

    Raises:
        FileError: a file cannot be written.
    """
    results, traces = stream(RESULTS), stream(TRACES)
    results_file, traces_file = files
    with writing(results_file, RESULTS.schema) as write_results, writing(traces_file, TRACES.schema) as write_traces:

        def copy() -> None:
            for cursor, batch in results.ready():
                on_results(cursor, batch)
                write_results(batch)
            for _, batch in traces.ready():
                write_traces(batch)

        yield copy
