"""fitq wait"""

from __future__ import annotations

import click

from fitq.cli import options
from fitq.cli.exit_codes import exit_code_of_submission
from fitq_shared import command_line


@click.command(short_help="Wait until a submission is finished.")
@options.submission_argument
@command_line.option("--timeout", type=float, metavar="SECONDS", help="Give up after this long, with exit code 3.")
@options.client_options
@options.json_option
@click.pass_context
def command(context: click.Context, submission: str, timeout: float | None, url: str | None, as_json: bool) -> None:
    """Wait until the submission ID is finished. Exit code 5 says that some of its fits failed."""
    from fitq.cli.output import document_of, line_of, print_json

    manifest = options.client(url).submission(submission).wait(timeout)
    if as_json:
        print_json(document_of(manifest))
    else:
        click.echo(line_of(manifest))
    context.exit(exit_code_of_submission(manifest))
