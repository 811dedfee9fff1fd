"""fitq ls"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="List submissions, newest first.")
@options.client_options
@options.json_option
def command(url: str | None, as_json: bool) -> None:
    """List the submissions that are kept, newest first."""
    from rich.console import Console

    from fitq.cli.output import document_of, print_json, table_of

    manifests = options.client(url).submissions()
    if as_json:
        print_json({"submissions": [document_of(manifest) for manifest in manifests]})
    elif manifests:
        Console().print(table_of(manifests))
    else:
        click.echo("no submissions; start with: fitq submit jobs.jsonl", err=True)
