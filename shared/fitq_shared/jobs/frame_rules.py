"""What a worker relies on in a frame of jobs: every number that it takes as a size has the limits of FitJob.

A client has checked each job; whoever else can write to Redis has not. Looked at are the smallest and the largest number
of a column, so that the usual frame costs next to nothing; a frame that breaks a rule is refused as a whole.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fitq_shared.errors import FrameError
from fitq_shared.jobs.column_rules import (
    BOOLEANS,
    BOUNDS,
    CHOICES,
    DRAWING_COLUMNS,
    MAY_BE_NULL,
    NUMBERS,
    SAMPLES,
    TRACE_PATTERN,
)
from fitq_shared.jobs.columns import list_lengths, repeats_one_word
from fitq_shared.jobs.fields import (
    MAX_DEGREE,
    MAX_FRAME_JOBS,
    MAX_ID_LENGTH,
    MAX_NUMBERS_HELD,
    MAX_POINTS_VISITED,
    MAX_RECORDED_LOSSES,
    MAX_SAMPLES,
    MAX_SAMPLES_BUT_MSE,
)
from fitq_shared.jobs.frames import sample_counts
from fitq_shared.jobs.ids import id_hashes
from fitq_shared.jobs.rows import Rows
from fitq_shared.jobs.schemas import SHAPE_COLUMNS
from fitq_shared.jobs.trace import recorded_counts

Mask: TypeAlias = NDArray[np.bool_]

_DOUBT = "; was it written by something else?"


def check_positions(jobs: pa.RecordBatch, job_count: int, first: int, last: int) -> None:
    """Return when the jobs are as many as were submitted, from position `first` to `last` of the input, each once.

    Raises:
        FrameError: they are not.
    """
    if len(jobs) != job_count:
        raise FrameError(f"its frame has {len(jobs):,} jobs, and {job_count:,} were submitted")
    check(0 < len(jobs) <= MAX_FRAME_JOBS, f"it has 1 to {MAX_FRAME_JOBS:,} jobs")
    positions = jobs["index"].to_numpy()
    if (positions.min(), positions.max()) != (first, last):
        raise FrameError(
            f"its frame has jobs {positions.min()} to {positions.max()} of the input, and {first} to {last} were submitted"
        )
    check(_all_differ(positions), "no two jobs have one position in the input")
    if not jobs["id"].equals(jobs["index"].cast(pa.string())):  # the usual ids, compared in half the time
        check(pc.max(pc.utf8_length(jobs["id"])).as_py() <= MAX_ID_LENGTH, f"an id has at most {MAX_ID_LENGTH} characters")
        check(_all_differ(id_hashes(jobs["id"])), "no two jobs have one id")


def check_jobs(rows: Rows) -> None:
    """Return when a worker can fit the rows of a frame, of which there is at least one.

    Raises:
        FrameError: jobs differ in what those of a chunk agree in, or hold what no job may.
    """
    jobs = rows.jobs
    for name in SHAPE_COLUMNS:
        check(_is_same(jobs[name]), f"all jobs of a chunk have the same {name}")
    for name, kind in NUMBERS.items():
        check_numbers(name, jobs[name].drop_null() if name in MAY_BE_NULL else jobs[name], kind)
    for name, choices in CHOICES.items():
        words = jobs[name].slice(0, 1) if name in SHAPE_COLUMNS or _is_same(jobs[name]) else pc.unique(jobs[name])
        check(set(words.to_pylist()) <= set(choices.to_pylist()), f"{name} is one of {', '.join(choices.to_pylist())}")
    check(pc.match_substring_regex(jobs["trace"][0], TRACE_PATTERN).as_py(), "trace is none, full, every:K or points:N")
    for name in (*BOOLEANS, "init_exact"):
        check(not jobs[name].null_count, f"{name} is true or false")
    _check_pairs(jobs)
    _check_lists(jobs)
    _check_samples(jobs, 0 if rows.sets is None else len(rows.sets))
    if rows.sets is not None:
        _check_points(rows.sets)
    _check_work(rows)


def check_numbers(name: str, column: pa.Array, kind: Any, least: float | None = None) -> None:
    """Return when all numbers of a column are within the limits of `kind`, msgspec's description, or from `least`.

    Raises:
        FrameError: one is not, or is null.
    """
    check(not column.null_count, f"{name} is a number")
    if not len(column):
        return
    values = column.to_numpy()
    lowest, highest = values.min(), values.max()  # NaN where one of them is
    bounds = {limit: getattr(kind, limit) for limit in BOUNDS} | ({} if least is None else {"ge": least})
    inside = np.isfinite(lowest) and np.isfinite(highest)
    for limit, bound in bounds.items():
        inside = inside and (bound is None or (BOUNDS[limit](lowest, bound) and BOUNDS[limit](highest, bound)))
    if not inside:
        raise FrameError(f"its frame has a {name} from {lowest:g} to {highest:g}, which no job may have{_DOUBT}")


def _check_pairs(jobs: pa.RecordBatch) -> None:
    if pc.any(jobs["nesterov"]).as_py():
        check(pc.min(jobs["momentum"].filter(jobs["nesterov"])).as_py() > 0, "nesterov needs a momentum")
    if jobs["delta_sigma"].null_count < len(jobs):
        check(pc.all(pc.equal(jobs["delta"].filter(jobs["delta_sigma"].is_valid()), 1.0)).as_py(), "delta or delta_sigma")


def _check_lists(jobs: pa.RecordBatch) -> None:
    """Coefficients are finite, and as many as they may be."""
    for name in ("polynomial", "init"):
        values = jobs[name].flatten()
        finite = not values.null_count and np.isfinite(values.to_numpy()).all()
        check(bool(finite), f"{name} has finite numbers")
    size = jobs["degree"][0].as_py() + 1
    check_lengths("init", jobs["init"], size, size)
    check_lengths("polynomial", jobs["polynomial"], 1, MAX_DEGREE + 1)


def check_lengths(name: str, lists: pa.Array, least: int, most: int) -> None:
    """Return when each list of a column has a length from `least` to `most`, or is null.

    Raises:
        FrameError: one has another.
    """
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    if lengths["min"] is not None:
        check(least <= lengths["min"] and lengths["max"] <= most, f"{name} has {least:,} to {most:,} numbers")


def _check_samples(jobs: pa.RecordBatch, set_count: int) -> None:
    """Each job has points, or draws them, or refers to one of the shared sets."""
    given, drawn, shared = (_is_given(jobs[name]) for name in ("x", "polynomial", "sample_set"))
    one = given.astype(np.int8) + drawn + shared == 1
    check(bool(one.all()), "a job has x and y, or a polynomial, or a shared sample set")
    _check_points(jobs, given)
    numbers = jobs["sample_set"].drop_null().to_numpy()
    check(not len(numbers) or 0 <= numbers.min() <= numbers.max() < set_count, "a job refers to a set that is there")
    for name, column in DRAWING_COLUMNS.items():
        same = jobs[column].null_count in (0, len(jobs)) or bool((_is_given(jobs[column]) == drawn).all())
        check(
            same and jobs[column].null_count == len(jobs) - np.count_nonzero(drawn),
            f"a job with a polynomial has a {column}, no other does",
        )
        check_numbers(column, jobs[column].drop_null(), SAMPLES[name])


def _check_points(batch: pa.RecordBatch, given: Mask | None = None) -> None:
    """x and y have one length, and weights where there are any; all rows have points, or those that are `given`."""
    x, y, weights = (list_lengths(batch[name], missing=-1) for name in ("x", "y", "weights"))
    check(given is None or bool(((x >= 0) == given).all()), "only a job with points has x")
    check(bool((x == y).all()), "x and y have one length")
    check(bool(((weights == x) | (weights < 0)).all()), "there is a weight for each x")
    check(given is not None or bool((x >= 0).all()), "a shared sample set has points")


def _check_work(rows: Rows) -> None:
    """What a worker can hold and do, as `rules.py` has it; and all that the jobs draw or record together."""
    jobs, points = rows.jobs, sample_counts(rows.jobs, rows.sets)
    mse, exact = (jobs[name][0].as_py() == word for name, word in (("loss", "mse"), ("optimizer", "exact")))
    size, restarts, steps = jobs["degree"][0].as_py() + 1, *(_int64(jobs[name]) for name in ("restarts", "steps"))
    check(points.max() <= (MAX_SAMPLES if mse else MAX_SAMPLES_BUT_MSE), "a job has so many points at most")
    check((pc.sum(jobs["count"]).as_py() or 0) <= MAX_SAMPLES, f"a chunk draws at most {MAX_SAMPLES:,} points")
    if not mse:
        check((restarts * points * size).max() <= MAX_NUMBERS_HELD, "a fit holds so many numbers at most")
    if exact:
        return
    if not mse:
        check((restarts * steps * points).max() <= MAX_POINTS_VISITED, "a descent looks at so many points at most")
    if max(len(jobs), restarts.max()) * (steps.max() + 1) > MAX_RECORDED_LOSSES:  # if each step is recorded
        losses = recorded_counts(jobs["trace"][0].as_py(), steps)
        most = max((restarts * losses).max(), losses.sum())
        check(most <= MAX_RECORDED_LOSSES, f"a fit, and a chunk, keep at most {MAX_RECORDED_LOSSES:,} losses")


def _is_same(column: pa.Array) -> bool:
    """Whether a column without nulls has one value."""
    if pa.types.is_string(column.type):
        return repeats_one_word(column) or (not column.null_count and len(pc.unique(column)) == 1)
    values = column.drop_null().to_numpy()
    return len(values) == len(column) and bool((values == values[0]).all())


def _is_given(column: pa.Array) -> Mask:
    if column.null_count in (0, len(column)):
        return np.full(len(column), not column.null_count)
    return np.asarray(column.is_valid())


def _all_differ(values: NDArray[Any]) -> bool:
    ordered = np.sort(values)  # five times as fast as np.unique
    return bool((ordered[1:] != ordered[:-1]).all())


def _int64(column: pa.Array) -> NDArray[np.int64]:
    return column.to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def check(holds: bool, rule: str) -> None:
    """Return when a rule holds.

    Raises:
        FrameError: it does not.
    """
    if not holds:
        raise FrameError(f"its frame breaks a rule ({rule}){_DOUBT}")
