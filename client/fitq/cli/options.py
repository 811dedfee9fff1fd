"""Options that several commands share, and how they become what the library takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
import msgspec

from fitq_shared.jobs import Basis, Dtype, FitJob, Loss, Missing, Optimizer, Samples, Schedule, job_from_mapping

if TYPE_CHECKING:
    import pyarrow as pa

    from fitq.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

#: Fields of all jobs that do not give them themselves: name -> type of the option and help.
_JOB_FIELDS: dict[str, tuple[Any, str]] = {
    "missing": (click.Choice(get_args(Missing)), "What a missing value does: the fit is invalid, or drop the point"),
    "degree": (int, "Degree of the fitted polynomial"),
    "basis": (click.Choice(get_args(Basis)), "Basis of the descent"),
    "loss": (click.Choice(get_args(Loss)), "What is minimised"),
    "delta": (float, "huber: residual from which on it is linear, in units of y"),
    "delta_sigma": (float, "huber: the same in robust standard deviations"),
    "ridge": (float, "Penalty on the squares of the basis coefficients"),
    "optimizer": (click.Choice(get_args(Optimizer)), "As torch.optim has them; exact solves without a descent"),
    "dtype": (click.Choice(get_args(Dtype)), "Precision of the descent"),
    "lr": (float, "Learning rate"),
    "steps": (int, "Steps of the descent"),
    "schedule": (click.Choice(get_args(Schedule)), "How the learning rate falls"),
    "gamma": (float, "Schedule exponential, step: factor for each step size"),
    "step_size": (int, "Schedule exponential, step: steps of one factor"),
    "beta1": (float, "nadam, adam, adamw: decay of the mean gradient"),
    "beta2": (float, "nadam, adam, adamw: decay of the mean square"),
    "eps": (float, "Added to the root mean square"),
    "weight_decay": (float, "Pull of the coefficients towards zero"),
    "momentum": (float, "sgd, rmsprop: momentum"),
    "nesterov": (bool, "sgd: Nesterov's momentum"),
    "smoothing": (float, "rmsprop: decay of the mean square"),
    "momentum_decay": (float, "nadam: decay of the momentum"),
    "restarts": (int, "Starts, of which the best is kept"),
    "init": (click.Choice(["exact"]), "Start at the least-squares solution"),
    "ftol": (float, "Stop when the loss falls by less than this share within patience"),
    "patience": (int, "Steps that ftol looks back"),
    "gtol": (float, "Stop at this norm of the gradient"),
    "tolerance": (float, "Gap of a converged fit"),
    "trace": (str, "Losses to keep: none, full, every:K, points:N"),
    "absolute_sigma": (bool, "Weights are 1 / sigma^2"),
    "covariance": (bool, "Return the covariance of the coefficients"),
}
#: What is shown as the default of a field that has none.
_WHERE_NONE = {"delta_sigma": "delta", "init": "drawn", "ftol": "never", "gtol": "never"}
_CSV_OPTIONS = ("group", "x", "y", "weights")
#: Option -> the field of Samples that it sets.
_SAMPLES_OPTIONS = {"samples": "count", "spread": "spread", "noise": "noise"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
submission_argument = click.argument("submission", metavar="ID")
format_option = click.option(
    "--format", type=click.Choice(["parquet", "jsonl", "json", "csv"]), help="Instead of the suffix."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")

_redis_option = click.option("--redis", "url", metavar="URL", help="Redis of the fleet  [default: $FITQ_REDIS_URL]")


def client_options(command: Command) -> Command:
    """`--redis`; the command is called with `url`, which `client` takes."""
    return _redis_option(command)


def client(url: str | None) -> Client:
    """The client of a command."""
    from fitq.client import Client

    return Client(url=url)


class _Polynomial(click.ParamType[list[float]]):
    name = "a,b,c"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> list[float]:
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of coefficients such as 1,2,3 (highest power first)", parameter, context)


def input_options(command: Command) -> Command:
    """INPUT and everything that says how to read it; the command takes them as keywords for `jobs_from`."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(FitJob)}
    options = [
        click.argument("input", required=False),
        click.option("--group", metavar="COLUMN", help="CSV: rows that agree in this column are one job."),
        click.option("--x", metavar="COLUMN", help="CSV: column of x."),
        click.option("--y", metavar="COLUMN", help="CSV: column of y."),
        click.option("--weights", metavar="COLUMN", help="CSV: column of weights."),
        click.option("--polynomial", type=_Polynomial(), help="Generate samples of this one, highest power first."),
        click.option("--samples", type=int, help="Generated: points in each sample set  [default: 20]"),
        click.option("--spread", type=float, help="Generated: standard deviation of x  [default: 5]"),
        click.option("--noise", type=float, help="Generated: standard deviation of the error of y  [default: 0]"),
        click.option("--count", type=int, help="Generated: number of jobs  [default: 1]"),
        click.option("--seed", type=int, help="Generated: seed of the first job, the others count on  [default: 0]"),
        *(_field_option(name, kind, text, defaults[name]) for name, (kind, text) in _JOB_FIELDS.items()),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _field_option(name: str, kind: Any, text: str, default: object) -> Callable[[Command], Command]:
    # The default is only shown: an option that is not given must not override the field of a job.
    shown = _WHERE_NONE.get(name, "by optimizer") if default is None else default
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=f"{text}  [default: {shown}]")


def jobs_from(options: dict[str, Any]) -> tuple[Iterator[pa.RecordBatch], str]:
    """The jobs that the options of `input_options` stand for, and a name of where they come from.

    Raises:
        UsageError: options that do not go together.
        InputError: see `fitq.readers`.
    """
    from fitq import readers

    _check_usage(options)
    given = {name: value for name, value in options.items() if value is not None}
    defaults = {name: given[name] for name in _JOB_FIELDS if name in given}
    if "polynomial" in given:
        samples = Samples(**{field: given[name] for name, field in _SAMPLES_OPTIONS.items() if name in given})
        text = ",".join(f"{coefficient:g}" for coefficient in given["polynomial"])
        jobs = readers.generated(given["polynomial"], given.get("count", 1), samples, given.get("seed", 0), defaults)
        return jobs, f"polynomial {text}"
    job_from_mapping({"x": [], "y": [], **defaults}, "command line")
    columns = readers.Columns(*(options[name] for name in _CSV_OPTIONS)) if given.keys() & set(_CSV_OPTIONS) else None
    return readers.from_file(given["input"], columns, defaults), given["input"]


def _check_usage(options: dict[str, Any]) -> None:
    given = {name for name, value in options.items() if value is not None}
    if ("input" in given) == ("polynomial" in given):
        raise click.UsageError(
            "give INPUT (a .jsonl, .csv, .parquet, .arrow or .npz file, or - for JSONL on stdin) or --polynomial"
        )
    other = _CSV_OPTIONS if "polynomial" in given else (*_SAMPLES_OPTIONS, "count", "seed")
    for name in other:
        if name in given:
            raise click.UsageError(f"--{name} does not go with {'--polynomial' if 'polynomial' in given else 'a file'}")
    missing = [name for name in ("group", "x", "y") if name not in given]
    if given & set(_CSV_OPTIONS) and missing:
        raise click.UsageError(f"a CSV needs --group, --x and --y; missing: --{', --'.join(missing)}")
