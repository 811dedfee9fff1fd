"""fitq results"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import click

from fitq.cli import options

if TYPE_CHECKING:
    import pyarrow as pa

    from fitq.submission import Submission

    Batches: TypeAlias = Iterator[tuple[str | None, pa.RecordBatch]]


@click.command(short_help="Write the results or loss traces of a submission.")
@options.submission_argument
@click.option("--traces", is_flag=True, help="Loss traces instead of results.")
@click.option("-o", "--output", default="-", metavar="FILE", help="File to write  [default: standard output]")
@options.format_option
@click.option("--follow", is_flag=True, help="Go on until the submission is finished, in the order of completion.")
@click.option("--since", metavar="CURSOR", help="Only what was stored after this cursor, in the order of completion.")
@click.option("--ordered", is_flag=True, help="With --follow: in the order of the input all the same.")
@click.option("--id", "job", metavar="JOB", help="Only the job with this id.")
@options.client_options
@click.option("--json", "as_json", is_flag=True, help="The same as --format json: one JSON document.")
def command(
    submission: str,
    traces: bool,
    output: str,
    format: str | None,
    follow: bool,
    since: str | None,
    ordered: bool,
    job: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Write the results of the submission ID, one row a fit in the order of the input.

    The suffix of FILE says the format: .parquet, .jsonl, .json or .csv; standard output gets JSONL. Numbers that are
    missing are null in JSON and empty cells in CSV. In CSV the coefficients are columns c2, c1, c0, and traces have one
    row for each recorded step; its first line needs the highest degree of all, so results in CSV come at the end.

    A submission that is not finished gives what it has so far and says so; --follow waits for the rest. Standard error
    ends with a line "cursor: CURSOR" (in a JSON document it is a field): --since CURSOR gives what is stored later.
    """
    from fitq.cli.output import line_of, quiet_when_nobody_reads
    from fitq.writers import format_of

    format = "json" if as_json else format or format_of(output)
    found = options.client(url).submission(submission)
    if job is not None:
        if follow or since or ordered:
            raise click.UsageError("--id gives one job; it does not go with --follow, --since or --ordered")
        batches = _one(found, job, traces)
    else:
        ordered = ordered or not (follow or since)
        batches = (found.trace_batches if traces else found.result_batches)(since, follow=follow, ordered=ordered)
        if not follow and not (manifest := found.status()).finished:
            click.echo(f"not finished, these are the fits so far: {line_of(manifest)}", err=True)
    with quiet_when_nobody_reads():
        _write(batches, traces, output, format, since, in_pieces=output == "-" and format == "jsonl" and not ordered)


def _write(batches: Batches, traces: bool, output: str, format: str, since: str | None, in_pieces: bool) -> None:
    """Write the batches, then tell the last cursor; after Ctrl-C too where what has been written is of use."""
    from fitq.streams import RESULTS, TRACES
    from fitq.writers import writing

    facts = {"cursor": since}
    try:
        with writing(output, (TRACES if traces else RESULTS).schema, format, facts) as write:
            for cursor, batch in batches:
                write(batch)
                facts["cursor"] = cursor
    except KeyboardInterrupt:
        if in_pieces:
            _tell(facts["cursor"])
        raise
    _tell(facts["cursor"])


def _one(found: Submission, job: str, traces: bool) -> Batches:
    from pyarrow import RecordBatch

    from fitq.streams import RESULTS, TRACES

    row, schema = (found.trace(job), TRACES.schema) if traces else (found.result(job), RESULTS.schema)
    yield None, RecordBatch.from_pylist([row], schema)


def _tell(cursor: str | None) -> None:
    if cursor is not None:
        click.echo(f"cursor: {cursor}", err=True)
