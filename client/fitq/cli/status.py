"""fitq status"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="Show how far a submission is.")
@options.submission_argument
@options.client_options
@options.json_option
def command(submission: str, url: str | None, as_json: bool) -> None:
    """Show how far the submission ID is."""
    from fitq.cli.output import document_of, line_of, print_json

    manifest = options.client(url).submission(submission).status()
    if as_json:
        print_json(document_of(manifest))
    else:
        click.echo(line_of(manifest))
