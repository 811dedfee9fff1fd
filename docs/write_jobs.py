"""Prints docs/jobs.md: the fields of a job, from their own descriptions. `make reference` writes it."""

from __future__ import annotations

from fitq_shared.jobs.descriptions import FieldDescription, describe_fields

INTRODUCTION = """# The fields of a job

A line of a JSONL file, a row of a table and `fitq.FitJob` have the same fields. All but the samples have defaults. Every
field that a job does not give itself can be an option of `fitq submit` and `fitq run` (`--weight-decay` for
`weight_decay`), except `id`, `x`, `y`, `weights`, `polynomial`, `samples`, `seed` and `tags`. Every number is each fit's
own and never splits a batch; fits that differ in degree, basis, loss, optimizer, dtype or trace are fitted in batches of
their own.

| field | may be | default | meaning |
|---|---|---|---|"""


def row_of(field: FieldDescription) -> str:
    """A field as a line of the table."""
    kind = f"{field.kind} {field.limits}".strip() if field.kind else ""
    allowed = [kind, *(f"`{choice}`" for choice in field.choices)]
    default = "" if field.default in (None, "") else f"`{field.default}`"
    description = field.description.replace("|", "\\|")
    return f"| `{field.name}` | {', '.join(filter(None, allowed))} | {default} | {description} |"


if __name__ == "__main__":
    print(INTRODUCTION, *map(row_of, describe_fields().values()), sep="\n")
