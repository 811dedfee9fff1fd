"""fitq results"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import click

from fitq.cli import options
from fitq.cli.interrupts import held
from fitq_shared import command_line
from fitq_shared.errors import FitqError

if TYPE_CHECKING:
    import pyarrow as pa

    from fitq.submission import Submission

    Batches: TypeAlias = Iterator[tuple[str | None, pa.RecordBatch]]


@click.command(short_help="Write the results or loss traces of a submission.")
@options.submission_argument
@click.option("--traces", is_flag=True, help="Loss traces instead of results.")
@command_line.option("-o", "--output", default="-", metavar="PATH", help="File or folder  [default: standard output]")
@options.format_option
@click.option("--follow", is_flag=True, help="Go on until the submission is finished, in the order of completion.")
@command_line.option("--since", metavar="CURSOR", help="Only what was stored after this cursor, in the order of completion.")
@click.option("--ordered", is_flag=True, help="With --follow: in the order of the input all the same.")
@command_line.option("--id", "job", metavar="JOB", help="Only the job with this id.")
@click.option("--history", is_flag=True, help="With --id: all results that the job has had, oldest first, with `attempt`.")
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
    history: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Write the results of the submission ID, one row a fit in the order of the input.

    The suffix of PATH says the format: .parquet, .jsonl, .json or .csv; standard output (-) gets JSONL. A PATH without
    one, or that ends in /, is a folder, which gets results.parquet and traces.parquet. Numbers that are missing are null
    in JSON and empty cells in CSV. In CSV the coefficients are columns c2, c1, c0, tags are columns like tag.site, and
    traces have one row for each recorded step; its first line needs the highest degree and the tags of all, so results in
    CSV come at the end.

    A submission that is not finished gives what it has so far and says so; --follow waits for the rest. Standard error
    ends with a line "cursor: CURSOR" (in a JSON document it is a field): --since CURSOR gives what is stored later.
    """
    from fitq.cli.output import line_of, quiet_when_nobody_reads
    from fitq.results.streams import RESULTS, TRACES
    from fitq.results.targets import format_of, is_folder

    found = options.client(url).submission(submission)
    folder = format is None and not as_json and is_folder(output)
    if folder and (traces or job):
        raise click.UsageError(f"{output} is a folder, which gets results and traces of all jobs; name a file")
    if job and (follow or since or ordered):
        raise click.UsageError("--id gives one job; it does not go with --follow, --since or --ordered")
    if history and (not job or traces):
        raise click.UsageError("--history is of the results of one job; name it with --id")
    ordered = ordered or not (follow or since)
    if not (job or follow) and not (manifest := found.status()).finished:
        click.echo(f"not finished, these are the fits so far: {line_of(manifest)}", err=True)
    if folder:
        _write_folder(found, output, since, follow, ordered)
        return
    format = "json" if as_json else format or format_of(output)
    if job:
        schema, batches = _one(found, job, traces, history)
    else:
        schema = (TRACES if traces else RESULTS).schema
        batches = (found.trace_batches if traces else found.result_batches)(since, follow=follow, ordered=ordered)
    with quiet_when_nobody_reads():
        _write(batches, schema, output, format, since, in_pieces=output == "-" and format == "jsonl" and not ordered)


def _write(batches: Batches, schema: pa.Schema, output: str, format: str, since: str | None, in_pieces: bool) -> None:
    """Write the batches, then tell the last cursor; after Ctrl-C or an error too, where what was written is of use."""
    from fitq.results.writers import writing

    facts = {"cursor": since}
    try:
        with writing(output, schema, format, facts) as write:
            for cursor, batch in batches:
                with held():  # rows that are out are behind the cursor that is told
                    write(batch)
                    facts["cursor"] = cursor
    except (KeyboardInterrupt, FitqError):
        if in_pieces:
            _tell(facts["cursor"])
        raise
    _tell(facts["cursor"])


def _write_folder(found: Submission, folder: str, since: str | None, follow: bool, ordered: bool) -> None:
    """Write results and traces into a folder, then tell the last cursor."""
    from fitq.results.copying import copying
    from fitq.results.targets import choose_files

    stream, cursors = partial(found.stream, since=since, follow=follow, ordered=ordered), [since]
    with copying(stream, choose_files(folder, None), lambda cursor, _: cursors.append(cursor)) as copy:
        for _ in found.progress() if follow else [found.status()]:
            copy()
    _tell(cursors[-1])


def _one(found: Submission, job: str, traces: bool, history: bool) -> tuple[pa.Schema, Batches]:
    """The newest result or trace of a job, or all of its results."""
    import pyarrow as pa

    from fitq.results.streams import RESULTS, TRACES
    from fitq.tags import text_of

    if traces:
        return TRACES.schema, iter([(None, pa.RecordBatch.from_pylist([found.trace(job)], TRACES.schema))])
    attempt = [pa.field("attempt", pa.int32(), nullable=False)] if history else []
    schema = pa.schema([*attempt, *RESULTS.schema])
    rows = found.history(job) if history else [found.result(job)]
    batch = pa.RecordBatch.from_pylist([row | {"tags": text_of(row["tags"])} for row in rows], schema)
    return schema, iter([(None, batch)])


def _tell(cursor: str | None) -> None:
    if cursor is not None:
        click.echo(f"cursor: {cursor}", err=True)
