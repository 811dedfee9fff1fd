"""fitq cancel"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="End submissions early; what is fitted stays.")
@click.argument("submissions", metavar="ID...", nargs=-1, required=True)
@options.client_options
@options.json_option
def command(submissions: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """End the submissions ID... early.

    What is fitted stays and can be read; jobs that wait are dropped, and fits that are running stop within seconds. One that
    is finished stays as it is. `fitq delete` removes results too.
    """
    from fitq.cli.output import document_of, line_of, print_json

    client = options.client(url)
    manifests = [submission.cancel() for submission in [client.submission(name) for name in submissions]]
    if as_json:
        print_json({"submissions": [document_of(manifest) for manifest in manifests]})
    else:
        for manifest in manifests:
            click.echo(f"{manifest.id}  {line_of(manifest)}")
