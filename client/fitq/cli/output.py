"""What commands print: manifests as text and JSON, and the live progress of a submission."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fitq.results.json_rows import JSON_SCHEMA
from fitq_shared.jobs.schemas import Status
from fitq_shared.masking import mask_url
from fitq_shared.store.manifest import Manifest

_SECONDS_BETWEEN_LINES = 2.0


def status_style(status: str) -> str:
    """Colour of a status: green is good, yellow fell short, red failed."""
    return {Status.CONVERGED: "green", Status.MAX_STEPS: "yellow", Status.STALLED: "yellow"}.get(Status(status), "red")


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on one line of standard output."""
    click.echo(msgspec.json.encode({"schema": JSON_SCHEMA, **document}))


@contextmanager
def quiet_when_nobody_reads() -> Iterator[None]:
    """End the command quietly when the reader of its output, such as `head`, stops reading."""
    try:
        yield
    except BrokenPipeError:
        # What is still buffered goes nowhere, or Python complains of it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def document_of(manifest: Manifest) -> dict[str, Any]:
    """A manifest as JSON has it."""
    fields = msgspec.structs.asdict(manifest) | {"results_url": mask_url(manifest.results_url)}
    return {**fields, "finished": manifest.finished, "fits_per_second": manifest.fits_per_second}


def state_of(manifest: Manifest) -> str:
    """How far it is, in one word or two."""
    if manifest.retrying and manifest.finished_at is not None:
        return "retrying"
    if manifest.state == "cancelled":
        return "cancelled"
    if manifest.finished:
        return "finished"
    if manifest.state == "open":
        return "being submitted"
    return "waiting for a worker" if manifest.started_at is None else "running"


def line_of(manifest: Manifest) -> str:
    """A manifest on one line."""
    done = f"{manifest.done_jobs:,} of {manifest.jobs:,} fits"
    parts = [done, retries_of(manifest), speed_of(manifest), counts_of(manifest)]
    return "  ".join([state_of(manifest), *filter(None, parts)])


def retries_of(manifest: Manifest) -> str:
    """How many jobs are being fitted again, empty for none."""
    return f"{manifest.retrying:,} being retried" if manifest.retrying else ""


def speed_of(manifest: Manifest) -> str:
    """Fits per second, empty before the first fits are done."""
    return f"{manifest.fits_per_second:,.0f} fits/s" if manifest.done_jobs and manifest.fits_per_second else ""


def counts_of(manifest: Manifest, styled: bool = False) -> str:
    """Finished fits by status, most first."""
    counts = sorted(manifest.statuses.items(), key=lambda item: -item[1])
    texts = [(status, f"{status} {fits:,}") for status, fits in counts]
    return "  ".join(f"[{status_style(status)}]{text}[/]" if styled else text for status, text in texts)


def table_of(manifests: Iterable[Manifest], sizes: Mapping[str, tuple[int, int]]) -> Table:
    """Submissions as a table, one a line; `sizes` are bytes in memory and in files by id, without any these columns go."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    right = ("done", "jobs", "in Redis", "in files")
    for name in ("id", "created (UTC)", "state", "done", "jobs", *(right[2:] if sizes else ()), "by status", "source"):
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in ("id", *right))
    for manifest in manifests:
        created = datetime.fromtimestamp(manifest.created_at, UTC).strftime("%Y-%m-%d %H:%M")
        counts = counts_of(manifest, styled=True)
        totals = (f"{manifest.done_jobs:,}", f"{manifest.jobs:,}")
        taken = [decimal(size) for size in sizes.get(manifest.id, ())]
        table.add_row(manifest.id, created, state_of(manifest), *totals, *taken, counts, escape(manifest.source))
    return table


def follow(manifests: Iterable[Manifest], console: Console) -> Manifest:
    """Show manifests as they come, a bar on a terminal and plain lines elsewhere; returns the last one."""
    return _bar(manifests, console) if console.is_terminal else _lines(manifests, console)


def _bar(manifests: Iterable[Manifest], console: Console) -> Manifest:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[counts]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=None, speed="", counts="")
        for manifest in manifests:
            total = manifest.jobs if manifest.state == "closed" else None
            progress.update(bar, description=state_of(manifest), total=total, completed=manifest.done_jobs)
            counts = "  ".join(filter(None, [retries_of(manifest), counts_of(manifest, styled=True)]))
            progress.update(bar, speed=speed_of(manifest), counts=counts)
    return manifest


def _lines(manifests: Iterable[Manifest], console: Console) -> Manifest:
    for manifest in _now_and_then(manifests):
        console.print(f"{time.strftime('%H:%M:%S')}  {line_of(manifest)}", highlight=False, soft_wrap=True)
    return manifest


def _now_and_then(manifests: Iterable[Manifest]) -> Iterator[Manifest]:
    """The manifests that say something new, at most one every two seconds, and the last one."""
    shown_at, shown = float("-inf"), None
    for manifest in manifests:
        news = (state_of(manifest), manifest.done_jobs, manifest.retrying)
        if manifest.finished or (news != shown and time.monotonic() - shown_at >= _SECONDS_BETWEEN_LINES):
            shown_at, shown = time.monotonic(), news
            yield manifest
