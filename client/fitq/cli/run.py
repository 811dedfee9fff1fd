"""fitq run"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from fitq.cli import options
from fitq.cli.exit_codes import TERMINATED, exit_code_of_fits
from fitq.cli.interrupts import held
from fitq_shared import command_line
from fitq_shared.errors import FitqError

if TYPE_CHECKING:
    from fitq.local import LocalFleet
    from fitq.submission import Submission
    from fitq_shared.store.manifest import Manifest


@click.command(short_help="Fit jobs on this machine, without a server: one command from a file to results.")
@options.input_options
@command_line.option("-o", "--output", metavar="PATH", help="Folder, or results file; see above.")
@options.device_option
@options.json_option
@click.pass_context
def command(context: click.Context, /, output: str | None, device: str, as_json: bool, **inputs: Any) -> None:
    """Fit jobs on this machine, without a server: one command from a file to results.

    INPUT and its options are those of `fitq submit`. A private server and a worker are started for the run and end with
    it; needs the extras `worker` and `local`.

    Results go to results.parquet and traces.parquet in a folder named after INPUT (data.csv: data-results, else
    fitq-results) or given with -o. With -o NAME.jsonl (or .csv, .json, .parquet) they go to NAME.jsonl and
    NAME-traces.jsonl. Ctrl-C ends the run and keeps the fits that are done.
    """
    from fitq.local import local_fleet

    # Python would die at once of SIGTERM and leave the temporary folder; an exit takes the fleet down first.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    with local_fleet(device) as fleet:
        statuses = _run(fleet, output, inputs, as_json)
    context.exit(exit_code_of_fits(statuses))


def _run(fleet: LocalFleet, output: str | None, inputs: dict[str, Any], as_json: bool) -> dict[str, int]:
    """Submit, follow and write; what this imports is imported while the worker starts. Returns the fits by status."""
    from rich.console import Console

    from fitq.cli.output import follow, print_json
    from fitq.cli.summary import render
    from fitq.client import Client
    from fitq.results.copying import copying
    from fitq.results.summary import Tally
    from fitq.results.targets import choose_files

    found = options.jobs_from(inputs)
    results_file, traces_file = choose_files(output, inputs["input"])
    progress, tally = Console(stderr=True), Tally()
    with progress.status("submitting"):
        submission = Client(fleet.settings).submit(found.jobs, found.source)
    for notice in found.notices():
        progress.print(notice, highlight=False, markup=False, soft_wrap=True)
    stream = partial(submission.stream, follow=True, ordered=True)
    with copying(stream, (results_file, traces_file), lambda _, batch: tally.add(batch)) as copy:
        ended: BaseException | None = None
        try:
            manifest = follow(_watched(submission, fleet, copy), progress)
        except BaseException as error:
            if not _copy_what_is_done(submission, copy):
                raise
            ended = error
    if ended is not None:
        click.echo(f"ended early; the {tally.fits:,} fits that were done are in {results_file}", err=True)
        raise ended
    summary = tally.summarize(manifest)
    if as_json:
        print_json({**msgspec.structs.asdict(summary), "results": str(results_file), "traces": str(traces_file)})
    else:
        Console().print(render(summary, tally.first_rows))
        click.echo(f"\nresults: {results_file}\ntraces:  {traces_file}")
    return summary.statuses


def _copy_what_is_done(submission: Submission, copy: Callable[[], None]) -> bool:
    """End the submission early and copy the fits that are done, in the order of the input; whether there were any."""
    with suppress(FitqError), held():
        if submission.cancel().done_jobs:
            copy()
            return True
    return False


def _watched(submission: Submission, fleet: LocalFleet, copy: Callable[[], None]) -> Iterator[Manifest]:
    """The progress of the submission for as long as the worker lives, with `copy` called at each look."""
    for manifest in submission.progress():
        with held():
            copy()
        yield manifest
        if not manifest.finished:
            fleet.check()
