"""Copying: results and traces of a submission go to files while it is being fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from fitq.streams import RESULTS, TRACES, InputOrder
from fitq.writers import writing
from fitq_shared.store import Store


@contextmanager
def copying(
    store: Store, submission: str, results_file: Path, traces_file: Path, on_results: Callable[[pa.RecordBatch], object]
) -> Iterator[Callable[[], None]]:
    """A function that copies, in the order of the input, what has been stored since its last call.

    The files appear at the end of the block; `on_results` is called with each batch of results.

    Raises:
        FileError: a file cannot be written.
    """
    results, traces = (InputOrder(store, submission, kind) for kind in (RESULTS, TRACES))
    with writing(results_file, RESULTS.schema) as write_results, writing(traces_file, TRACES.schema) as write_traces:

        def copy() -> None:
            for _, batch in results.ready():
                on_results(batch)
                write_results(batch)
            for _, batch in traces.ready():
                write_traces(batch)

        yield copy
