"""fitq ls"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="List submissions, newest first.")
@click.option("--size", is_flag=True, help="Also how many bytes each takes, in the memory of Redis and in files.")
@options.client_options
@options.json_option
def command(size: bool, url: str | None, as_json: bool) -> None:
    """List the submissions that are kept, newest first."""
    from rich.console import Console

    from fitq.cli.output import document_of, print_json, table_of

    client = options.client(url)
    manifests = client.submissions()
    sizes = client.sizes(manifests) if size else {}
    if as_json:
        documents = [document_of(manifest) for manifest in manifests]
        sized = [{"memory_bytes": memory, "file_bytes": files} for memory, files in sizes.values()] or [{}] * len(documents)
        print_json({"submissions": [document | more for document, more in zip(documents, sized, strict=True)]})
    elif manifests:
        Console().print(table_of(manifests, sizes))
    else:
        click.echo("no submissions; start with: fitq submit jobs.jsonl", err=True)
