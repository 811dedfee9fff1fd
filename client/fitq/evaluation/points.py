"""Points at which results are evaluated, as scripts have them: one array for all fits or a list for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from fitq.evaluation.lists import Lists, lists_of, repeated, whole
from fitq_shared.errors import InputError

#: One flat array for all fits, or a list for each row of the results: a list column, a sequence of arrays, or a
#: two-dimensional array.
Points: TypeAlias = ArrayLike | Sequence[ArrayLike | None] | pa.Array | pa.ChunkedArray


def points_of(given: Points, name: str, rows: int) -> Lists:
    """A list for each of `rows` rows.

    Raises:
        InputError: `given`, which the text calls `name`, is not numbers or has another number of lists.
    """
    try:
        column = whole(given if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(_rows_of(given)))
        lists = lists_of(column) if _holds_lists(column.type) else repeated(column, rows)
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"{name} is not numbers ({error}); give one array for all fits or a list for each row") from None
    if len(lists.lengths) != rows:
        raise InputError(
            f"{name} has {len(lists.lengths)} lists and the results have {rows} rows; give a list for each row in the order "
            f'of the rows, such as jobs["{name}"].take(results["index"])'
        )
    return lists


def _rows_of(given: Any) -> Any:
    """What Arrow understands: it takes flat arrays, and sequences of them."""
    return list(given) if isinstance(given, np.ndarray) and given.ndim > 1 else given


def _holds_lists(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
