"""Traces as users get them: with the step of each loss."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.jobs.trace import recorded_steps

_steps = pa.list_(pa.field("element", pa.int32(), nullable=False))
_losses = pa.list_(pa.field("element", pa.float64(), nullable=False))

#: `step`: how many updates were made; `loss`: in units of y squared for `mse`; both of the same lengths.
LABELLED_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("step", _steps, nullable=False),
        pa.field("loss", _losses, nullable=False),
    ]
)


def label_steps(traces: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of TRACE_SCHEMA as one of LABELLED_SCHEMA."""
    return pa.RecordBatch.from_arrays(
        [traces["index"], traces["id"], _steps_of(traces), _in_units_of_y(traces)], schema=LABELLED_SCHEMA
    )


def _in_units_of_y(traces: pa.RecordBatch) -> pa.ListArray:
    """The losses of each row without their exponent; a product with a power of two is exact."""
    lists, values = traces["loss"], traces["loss"].flatten()
    offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
    lengths, factors = np.diff(offsets), np.ldexp(1.0, traces["exponent"].to_numpy())
    if len(values) and not values.null_count and (lengths == lengths[0]).all():  # the usual case, much faster
        losses = pa.array((values.to_numpy().reshape(len(lengths), -1) * factors[:, None]).ravel())
    else:
        losses = pc.multiply(values.cast(pa.float64()), pa.array(np.repeat(factors, lengths)))
    return pa.ListArray.from_arrays(pa.array(offsets), losses, type=_losses)


def _steps_of(traces: pa.RecordBatch) -> pa.ListArray:
    """The recorded steps of each row: worked out once for each kind of descent, of which there are few."""
    kinds, kind_of_row = _kinds(traces)
    steps = [recorded_steps(*kind).astype(np.int32) for kind in kinds]
    if len(steps) == 1:  # the usual case, five times as fast without `take`
        ends = np.arange(traces.num_rows + 1, dtype=np.int32) * len(steps[0])
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.tile(steps[0], traces.num_rows)), type=_steps)
    return pa.array(steps, _steps).take(pa.array(kind_of_row))


def _kinds(traces: pa.RecordBatch) -> tuple[list[tuple[str, int, int]], NDArray[np.int64]]:
    """The different (trace, steps, made) in a batch, and which of them each row is."""
    names = traces["trace"].dictionary_encode()
    limits, made = (traces[name].to_numpy().astype(np.int64) for name in ("steps", "made"))
    # One number for each pair, since sorting numbers is much faster than sorting rows.
    pairs, pair_of_row = np.unique(limits << 32 | made, return_inverse=True)
    both, kind_of_row = np.unique(names.indices.to_numpy() * len(pairs) + pair_of_row, return_inverse=True)
    name, pair = np.divmod(both, max(len(pairs), 1))
    texts = names.dictionary.to_pylist()
    kinds = [(texts[n], int(pairs[p] >> 32), int(pairs[p] & 0xFFFFFFFF)) for n, p in zip(name, pair, strict=True)]
    return kinds, kind_of_row
