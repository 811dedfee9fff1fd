"""What msgspec says of a job that it refuses, in the words of people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from fitq_shared.errors import JobError
from fitq_shared.jobs.fields import MAX_ID_LENGTH, Basis, Dtype, Loss, Missing, Optimizer, Schedule

#: What a field expects, where msgspec's own words would show a pattern or hide the choices.
_EXPECTED = {
    "id": f"expected text of length <= {MAX_ID_LENGTH} (bytes: in UTF-8) or a whole number",
    "basis": f"expected one of {', '.join(get_args(Basis))}",
    "loss": f"expected one of {', '.join(get_args(Loss))}",
    "optimizer": f"expected one of {', '.join(get_args(Optimizer))}",
    "schedule": f"expected one of {', '.join(get_args(Schedule))}",
    "dtype": f"expected one of {', '.join(get_args(Dtype))}",
    "missing": f"expected one of {', '.join(get_args(Missing))}",
    "init": "expected a list of numbers, highest power first, or exact",
    "trace": "expected none, full, every:K or points:N with N >= 2",
}


def explain_refusal(error: msgspec.ValidationError, fields: object, known: Mapping[str, Sequence[str]]) -> JobError:
    """msgspec's message as ours: which field, what it holds, what was expected.

    `fields` are those of the job that was refused; `known` has the names of all fields of a job under "", and of those of
    a field that has some itself under its name.
    """
    text = str(error)
    job = fields.get("id") if isinstance(fields, Mapping) else None
    job = job if isinstance(job, str) else None
    if unknown := re.search(r"contains unknown field `(.*?)`", text):
        parent = "samples" if "`$.samples`" in text else ""
        names = [name for name in (parent, unknown[1]) if name]
        rule = f"no such field; known are {', '.join(known[parent])}"
        return JobError(rule, field=".".join(names), value=_value_at(fields, names), job=job)
    rule, _, path = text.partition(" - at `$")
    if not path:
        return JobError(f"not a job: {text}", job=job)
    field = path.removeprefix(".").removesuffix("`")
    value = _value_at(fields, re.findall(r"[^.\[\]]+", field))
    return JobError(_EXPECTED.get(field, rule[:1].lower() + rule[1:]), field=field, value=value, job=job)


def _value_at(fields: Any, path: list[str]) -> object:
    """The value at `path` in decoded JSON; None where the path does not lead anywhere."""
    for step in path:
        try:
            fields = fields[int(step)] if isinstance(fields, list) else fields[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return fields
