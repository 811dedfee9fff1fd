"""fitq results"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="Write the results or loss traces of a submission.")
@options.submission_argument
@click.option("--traces", is_flag=True, help="Loss traces instead of results.")
@click.option("-o", "--output", default="-", metavar="FILE", help="File to write  [default: standard output]")
@options.format_option
@options.client_options
@click.option("--json", "as_json", is_flag=True, help="The same as --format json: one JSON document.")
def command(submission: str, traces: bool, output: str, format: str | None, url: str | None, as_json: bool) -> None:
    """Write the results of the submission ID, one row a fit in the order of the input.

    The suffix of FILE says the format: .parquet, .jsonl, .json or .csv; standard output gets JSONL. Numbers that are
    missing are null in JSON and empty cells in CSV. In CSV the coefficients are columns c2, c1, c0, and traces have one
    row for each recorded step. A submission that is not finished gives what it has so far and says so.
    """
    from fitq.cli.output import line_of
    from fitq.writers import format_of, write

    format = "json" if as_json else format or format_of(output)
    found = options.client(url).submission(submission)
    if not (manifest := found.status()).finished:
        click.echo(f"not finished, these are the fits so far: {line_of(manifest)}", err=True)
    write(found.traces() if traces else found.results(), output, format)
