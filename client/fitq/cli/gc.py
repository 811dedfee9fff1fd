"""fitq gc"""

from __future__ import annotations

import click

from fitq.cli import options


@click.command(short_help="Remove what killed processes have left behind.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--folders",
    is_flag=True,
    help="Also folders under $FITQ_RESULTS_URL of submissions that this Redis does not know. Only where no other fitq keeps "
    "its results there.",
)
@options.client_options
@options.json_option
def command(dry_run: bool, folders: bool, url: str | None, as_json: bool) -> None:
    """Remove what killed processes have left behind.

    These are keys of submissions that were deleted while somebody still stored something for them, and files of workers
    that died before they could commit. Submissions and their results stay as they are, whatever state they are in.
    """
    from fitq.cli.output import print_json

    client = options.client(url)
    garbage, unknown = client.find_garbage(), client.find_unknown_folders() if folders else []
    if not dry_run:
        client.remove_garbage(garbage, unknown)
    if as_json:
        files = [path for _, path in garbage.files]
        print_json({"removed": not dry_run, "keys": garbage.keys, "files": files, "folders": unknown})
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {len(garbage.keys):,} keys, {len(garbage.files):,} files, {len(unknown):,} folders")
    for name in [*garbage.keys, *(path for _, path in garbage.files), *unknown]:
        click.echo(f"  {name}")
