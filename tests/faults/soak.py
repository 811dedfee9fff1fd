"""Storm after storm, each with a seed of its own: `python -m tests.faults.soak --faults 1000 --seed 1`."""

from __future__ import annotations

import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from fitq.private_server import find_server
from tests.faults.comparison import Finding, Totals, compare
from tests.faults.faults import FAULTS
from tests.faults.load import Work, make_works
from tests.faults.storm import Fault, Storm

FAULTS_PER_STORM = 25


def run_storm(
    binary: str, folder: Path, works: Sequence[Work], seed: int, count: int, faults: Sequence[Fault] = FAULTS
) -> tuple[Totals, list[Finding], list[str]]:
    """One storm from its seed: totals, what is not as it should be, and the names of the faults.

    Raises:
        WrongAnswer: a client did something else than its promises say.
    """
    storm = Storm(binary, folder, works, seed)
    try:
        names = storm.rage(faults, count)
        return *compare(storm, len(names)), names
    finally:
        storm.end()


@click.command()
@click.option("--faults", default=1000, show_default=True, help="How many altogether.")
@click.option("--seed", default=1, show_default=True, help="Of the first storm; each further one has the next.")
@click.option("--per-storm", default=FAULTS_PER_STORM, show_default=True, help="How many in each.")
@click.option("--only", default="", help="Only faults with this in their name.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder where logs, data and results of each storm stay.")
def main(faults: int, seed: int, per_storm: int, only: str, keep: Path | None) -> None:
    """Let faults rage over a server, workers and clients; exit with 1 when a promise was broken."""
    for number in (signal.SIGINT, signal.SIGTERM):  # which a process in the background would ignore, or die of at once
        signal.signal(number, signal.default_int_handler)
    chosen = [fault for fault in FAULTS if only in fault.__name__]
    totals, failed = Totals(), False
    with tempfile.TemporaryDirectory() as folder:
        works = make_works(Path(folder))
        while totals.faults < faults:
            count = min(per_storm, faults - totals.faults)
            with _folder(seed, keep) as own:
                try:
                    found, findings, names = run_storm(find_server(), own, works, seed, count, chosen)
                except Exception:
                    traceback.print_exc()
                    found, findings, names = Totals(count), [], ["?"]
                    failed = True
            totals = totals.plus(found)
            print(f"seed {seed}: {found}", flush=True)
            for finding in findings:
                print(f"  {finding.kind} {finding.rows}: {finding.what}", flush=True)
            print(f"  {', '.join(names)}", flush=True)
            seed += 1
    print(totals)
    sys.exit(0 if totals.clean and not failed else 1)


@contextmanager
def _folder(seed: int, keep: Path | None) -> Iterator[Path]:
    """Where a storm has its files."""
    if keep is not None:
        own = keep / f"storm-{seed}"
        own.mkdir(parents=True)
        yield own
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


if __name__ == "__main__":
    main()
