"""fitq submit"""

from __future__ import annotations

from typing import Any

import click

from fitq.cli import options
from fitq_shared import command_line
from fitq_shared.errors import ServerError


@click.command(short_help="Hand jobs to the fleet and print the submission's id.")
@options.input_options
@command_line.option("--key", default="", metavar="NAME", help="Name of the submission: the same jobs again return it.")
@command_line.option("--resume", default="", metavar="ID", help="Complete a submission whose upload was broken off.")
@options.client_options
@options.json_option
def command(key: str, resume: str, url: str | None, as_json: bool, **inputs: Any) -> None:
    """Hand jobs to the fleet and print the submission's id.

    INPUT is a .jsonl file with one job a line (- reads them from standard input), a long .csv with --group, --x and
    --y, a .parquet, .arrow or .feather file with one job a row, or a .npz archive of arrays with one job a row; columns
    and arrays are named like the fields of a job. Instead, --polynomial generates sample sets. After a bad job nothing
    is submitted. After a failure of the server the submission stays open, and --resume uploads what is missing.

    The id is printed on standard output as soon as there is one; everything else goes to standard error.
    """
    found = options.jobs_from(inputs)
    if key and resume:
        raise click.UsageError("give --key or --resume, not both")
    opened: list[str] = []

    def tell(submission: str) -> None:
        opened.append(submission)
        if not as_json:
            click.echo(submission)

    try:
        submission = options.client(url).submit(found.jobs, found.source, on_open=tell, key=key, resume=resume)
    except ServerError as error:
        for name in opened:
            error.add_note(f"`fitq submit` with the same input and --resume {name} goes on")
        raise
    for notice in found.notices():
        click.echo(notice, err=True)
    manifest = submission.status()
    if as_json:
        from fitq.cli.output import document_of, print_json

        print_json(document_of(manifest))
        return
    click.echo(f"{manifest.jobs:,} jobs submitted; next:", err=True)
    click.echo(f"  fitq watch {submission.id}", err=True)
    click.echo(f"  fitq results {submission.id} -o results.parquet", err=True)
