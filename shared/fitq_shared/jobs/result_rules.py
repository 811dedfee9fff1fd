"""What a client relies on in frames of results and traces: lengths and sizes, and tags that are JSON."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitq_shared.errors import FrameError
from fitq_shared.jobs.column_rules import NUMBERS, TRACE_PATTERN
from fitq_shared.jobs.columns import list_lengths
from fitq_shared.jobs.fields import MAX_DEGREE, MAX_RECORDED_LOSSES, Tag
from fitq_shared.jobs.frame_rules import check, check_lengths, check_numbers
from fitq_shared.jobs.trace import recorded_counts

_SIZE = MAX_DEGREE + 1
#: Lists of a result and the most numbers that they have.
_LONGEST = {
    **dict.fromkeys(("coefficients", "scaled_coefficients", "basis_coefficients", "exact_coefficients", "stderr"), _SIZE),
    **dict.fromkeys(("covariance", "scaled_covariance"), _SIZE**2),
    "domain": 2,
}


def check_results(results: pa.RecordBatch) -> pa.RecordBatch:
    """The results of a frame, which have the sizes that a fit gives.

    Raises:
        FrameError: they do not.
    """
    check_numbers("degree", results["degree"].drop_null(), NUMBERS["degree"])
    for name, longest in _LONGEST.items():
        check_lengths(name, results[name], 0, longest)
    decode = msgspec.json.Decoder(dict[str, Tag]).decode
    try:
        for text in results["tags"].drop_null().to_pylist():
            decode(text)
    except msgspec.DecodeError as error:
        raise FrameError(f"the tags of a result are no JSON object ({error}); was it written by something else?") from None
    return results


def check_traces(traces: pa.RecordBatch) -> pa.RecordBatch:
    """The traces of a frame, each with the losses that its descent must have recorded, or none.

    Raises:
        FrameError: one has others.
    """
    for name in ("steps", "made"):
        check_numbers(name, traces[name], NUMBERS["steps"], least=0)
    lengths, steps, made = list_lengths(traces["loss"]), traces["steps"].to_numpy(), traces["made"].to_numpy()
    kept = 0
    for word in pc.unique(traces["trace"]).to_pylist():
        check(bool(word) and pc.match_substring_regex(word, TRACE_PATTERN).as_py(), "a trace is full, every:K or points:N")
        rows = np.asarray(pc.equal(traces["trace"], word).fill_null(False))
        recorded = recorded_counts(word, steps[rows], made[rows])
        check(((recorded == lengths[rows]) | (lengths[rows] == 0)).all(), "a trace has a loss for each recorded step")
        kept += int(recorded.sum())
    check(kept <= MAX_RECORDED_LOSSES, f"traces have at most {MAX_RECORDED_LOSSES:,} losses")
    return traces
