"""A client accepts the results and traces that workers write, and none that would harm it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fitq_shared.errors import FrameError
from fitq_shared.jobs.fields import MAX_DEGREE, MAX_STEPS
from fitq_shared.jobs.result_rules import check_results, check_traces
from fitq_shared.jobs.schemas import RESULT_SCHEMA, TRACE_SCHEMA

TRACE = {"index": 0, "id": "a", "trace": "every:10", "steps": 20, "made": 15, "loss": [1.0, 0.5, 0.25], "exponent": 0}


@pytest.mark.parametrize(
    "fields",
    [
        {"made": 20, "loss": [3.0, 2.0]},
        {"made": 25, "loss": [1.0]},
        {"steps": -1},
        {"made": None},
        {"steps": 2**31 - 1},
        {"trace": "every:0"},
        {"trace": None},
        {"trace": "full", "loss": None, "steps": MAX_STEPS, "made": MAX_STEPS},
    ],
)
def test_a_trace_that_does_not_fit_its_steps_is_refused(fields: dict[str, Any]) -> None:
    """Its steps are worked out from these numbers: a few bytes would ask for gigabytes."""
    copies = 68 if fields.get("trace") == "full" else 1
    check_traces(pa.RecordBatch.from_pylist([TRACE, {**TRACE, "loss": None}], TRACE_SCHEMA))
    with pytest.raises(FrameError):
        check_traces(pa.RecordBatch.from_pylist([TRACE, *[{**TRACE, **fields}] * copies], TRACE_SCHEMA))


RESULT = {"index": 0, "id": "a", "status": "converged", "degree": 1, "coefficients": [1.0, 2.0], "tags": '{"site":"A"}'}


@pytest.mark.parametrize(
    "fields",
    [
        {"degree": -1},
        {"degree": MAX_DEGREE + 1},
        {"coefficients": [0.0] * (MAX_DEGREE + 2)},
        {"covariance": [0.0] * ((MAX_DEGREE + 1) ** 2 + 1)},
        {"domain": [0.0] * 3},
        {"tags": "no JSON"},
        {"tags": "[1]"},
        {"tags": '{"a": {"b": 1}}'},
    ],
)
def test_a_result_of_other_sizes_is_refused(fields: dict[str, Any]) -> None:
    """Columns and matrices are made of them, and tags are written as they are."""
    check_results(pa.RecordBatch.from_pylist([RESULT, {**RESULT, "degree": None, "tags": None}], RESULT_SCHEMA))
    with pytest.raises(FrameError):
        check_results(pa.RecordBatch.from_pylist([RESULT, {**RESULT, **fields}], RESULT_SCHEMA))
