"""fitq delete"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="Remove submissions and all that is stored for them.")
@click.argument("submissions", metavar="ID...", nargs=-1, required=True)
@options.client_options
@options.json_option
def command(submissions: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Remove the submissions ID... with their jobs, results and traces. Fits that are running are dropped."""
    from fitq.cli.output import print_json

    client = options.client(url)
    found = [client.submission(submission) for submission in submissions]
    for submission in found:
        submission.delete()
    if as_json:
        print_json({"deleted": [submission.id for submission in found]})
    else:
        click.echo(f"deleted {', '.join(submission.id for submission in found)}")
