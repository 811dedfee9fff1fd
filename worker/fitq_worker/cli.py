"""The command `fitq-worker`: only translates between the terminal and the worker's modules."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from fitq_shared import __version__, command_line
from fitq_shared.errors import FitqError
from fitq_shared.jobs.fields import MAX_DEGREE, Basis, Dtype, Loss, Optimizer

if TYPE_CHECKING:
    from rich.table import Table

    from fitq_worker.verify.checks import Check

DEVICE_HELP = "auto (every GPU, else the CPU), cpu or cuda:N."


class _Commands(click.Group):
    """Prints fitq's errors as one line instead of a traceback."""

    def invoke(self, context: click.Context) -> object:
        if importlib.util.find_spec("torch") is None:
            raise click.ClickException("fitq-worker needs torch. Run `pip install 'fitq[worker]'`.")
        try:
            return super().invoke(context)
        except FitqError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fitq-worker")
def main() -> None:
    """Fit chunks of jobs from the queue. FITQ_REDIS_URL says where it is."""


@main.command()
@command_line.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@command_line.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Worker processes for each device. By default one on a GPU and one for each usable core on the CPU.",
)
@command_line.option(
    "--memory",
    type=click.FloatRange(min=0.5),
    metavar="GIB",
    help="Memory that each of them may use; a fit that needs more ends as an error. By default they share 90% of the "
    "machine's, or of the container's, and on a GPU there is no limit.",
)
@command_line.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of each for array work. More processes do more than more threads.",
)
@command_line.option(
    "--drain",
    type=click.FloatRange(min=0, max=86400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each may go on with its chunk once it is told to stop. A chunk that takes longer is given back, and "
    "another worker fits it from its beginning.",
)
def start(device: str, processes: int | None, memory: float | None, threads: int, drain: float) -> None:
    """Start worker processes and look after them until TERM or Ctrl-C.

    A second TERM or Ctrl-C ends the drain, a third one kills.

    \b
    Exit codes:
      0    stopped; chunks were finished or given back
      1    workers had to be killed, or what looks after them has failed
      4    the server does not let us in
    """
    from fitq_shared.masking import mask_url
    from fitq_shared.settings import Settings
    from fitq_worker.fleet.devices import choose_devices, cuda_devices
    from fitq_worker.fleet.logs import configure_logging
    from fitq_worker.fleet.supervisor import start_workers, supervise

    settings = Settings.from_environment()
    devices = choose_devices(device, cuda_devices())
    configure_logging()
    workers = start_workers(devices, processes, None if memory is None else int(memory * 2**30), threads, drain)

    from fitq_shared.queue import LANES  # imports what takes longer than to start a process

    names = "; ".join(f"{each.name} ({each.description})" for each in devices)
    click.echo(f"fitq-worker {__version__}: {names}; {mask_url(settings.redis_url)}; lanes {', '.join(LANES)}", err=True)
    sys.exit(supervise(settings, workers))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def devices(as_json: bool) -> None:
    """List what `start --device` can be given."""
    from fitq_worker.fleet.devices import CPU, cuda_devices

    found = [*cuda_devices(), CPU]
    if as_json:
        click.echo(json.dumps([device._asdict() for device in found], indent=2))
        return
    for device in found:
        click.echo(f"{device.name}\t{device.description}")


@main.command()
@click.option(
    "--degree", "degrees", type=click.IntRange(0, MAX_DEGREE), multiple=True, default=range(1, 6), show_default=True
)
@click.option("--loss", "losses", type=click.Choice(get_args(Loss)), multiple=True, default=["mse"], show_default=True)
@click.option(
    "--optimizer", "optimizers", type=click.Choice(get_args(Optimizer)), multiple=True, default=["nadam"], show_default=True
)
@click.option(
    "--basis", "bases", type=click.Choice(get_args(Basis)), multiple=True, default=["orthogonal", "power"], show_default=True
)
@click.option("--dtype", "dtypes", type=click.Choice(get_args(Dtype)), multiple=True, default=["float32"], show_default=True)
def warm(degrees: Any, losses: Any, optimizers: Any, bases: Any, dtypes: Any) -> None:
    """Build the native code of every combination of these ahead, for the processor of this machine.

    It goes to $XDG_CACHE_HOME/fitq/kernels, by default ~/.cache/fitq/kernels: a folder that workers without a compiler can
    share. Each option can be given several times. Workers build what is missing by themselves.
    """
    from fitq_worker.engine import build_kernels

    for what in build_kernels(degrees, losses, optimizers, bases, dtypes):
        click.echo(what)


@main.command()
@command_line.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
def check(device: str) -> None:
    """Try the server, files for results and devices as a worker uses them; exit with 1 when `start` could not work."""
    from fitq_shared.settings import Settings
    from fitq_worker.fleet.check import check_machine

    found = check_machine(Settings.from_environment(), device)
    for finding in found:
        click.echo(f"{'ok' if finding.good else 'missing'}\t{finding.what}\t{finding.detail}")
    sys.exit(0 if all(finding.good or not finding.required for finding in found) else 1)


@main.command()
@command_line.option(
    "--data",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with Norris.dat, Pontius.dat and Filip.dat of NIST's reference data, to fit them too.",
)
@command_line.option("--device", default="auto", show_default=True, help=DEVICE_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def verify(folder: Path | None, device: str, as_json: bool) -> None:
    """Fit data with certified answers and count the correct digits; exit with 1 when they are too few."""
    from rich.console import Console

    from fitq_worker.fleet.devices import choose_devices, cuda_devices
    from fitq_worker.verify.certified import certified_sets
    from fitq_worker.verify.checks import verify

    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which the devices are numbered here
    data_sets = certified_sets(folder)
    checks = {each: verify(data_sets, each.name) for each in choose_devices(device, cuda_devices())}
    if as_json:
        click.echo(json.dumps([check.document() for group in checks.values() for check in group], indent=2))
    else:
        for each, group in checks.items():
            Console().print(f"{each.name}: {each.description}", _table(group), sep="\n", highlight=False, markup=False)
    sys.exit(1 if any(check.missed for group in checks.values() for check in group) else 0)


def _table(checks: Iterable[Check]) -> Table:
    """The checks, one data set a line; digits that are required stand in brackets."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("data set", no_wrap=True)
    for heading in ("degree", "points", "exact\ndigits", "stderr\ndigits", "R²\ncertified", "R²\nnadam", "off by"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for check in checks:
        table.add_row(*_cells(check), style="red" if check.missed else "")
    return table


def _cells(check: Check) -> list[str]:
    stderr = "-" if check.stderr_digits is None else f"{check.stderr_digits:.1f} ({check.stderr_digits_required})"
    r2 = ["-", "-"] if check.r2 is None else [f"{check.r2:.7f}", f"{check.r2_difference:.0e}"]
    verdict = f"missed {', '.join(check.missed)}" if check.missed else "ok"
    return [
        check.data_set,
        str(check.degree),
        str(check.points),
        f"{check.exact_digits:.1f} ({check.exact_digits_required})",
        stderr,
        f"{check.r2_certified:.7f}",
        *r2,
        verdict,
    ]
