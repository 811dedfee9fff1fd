"""fitq ls"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from fitq.cli import options

if TYPE_CHECKING:
    from fitq_shared.manifest import Manifest


@click.command(short_help="List submissions, newest first.")
@click.option("--size", is_flag=True, help="Show what each takes, in the memory of Redis and in files.")
@options.client_options
@options.json_option
def command(size: bool, url: str | None, as_json: bool) -> None:
    """List the submissions that are kept, newest first."""
    from rich.console import Console

    from fitq.cli.output import document_of, print_json, table_of

    client = options.client(url)
    manifests = client.submissions()
    sizes = client.sizes(manifests) if size else None
    if as_json:
        print_json({"submissions": [document_of(manifest) | _bytes(manifest, sizes) for manifest in manifests]})
    elif manifests:
        Console().print(table_of(manifests, sizes))
    else:
        click.echo("no submissions; start with: fitq submit jobs.jsonl", err=True)


def _bytes(manifest: Manifest, sizes: Mapping[str, tuple[int, int]] | None) -> dict[str, int]:
    return {} if sizes is None else dict(zip(("redis_bytes", "file_bytes"), sizes[manifest.id], strict=True))
