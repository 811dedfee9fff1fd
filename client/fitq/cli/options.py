"""Options that several commands share, and how they become what the library takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from fitq_shared import command_line
from fitq_shared.jobs.descriptions import FieldDescription, describe_fields
from fitq_shared.jobs.job import Samples, defaults_from_mapping

if TYPE_CHECKING:
    import pyarrow as pa

    from fitq.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

#: Fields that each job has for itself; all others are options, for jobs that do not give them themselves.
_NO_OPTIONS = {"id", "x", "y", "weights", "polynomial", "samples", "seed", "tags"}
_DESCRIPTIONS = {name: field for name, field in describe_fields().items() if name not in _NO_OPTIONS}
_TYPES: dict[str | None, click.ParamType[Any]] = {"bool": click.BOOL, "int": click.INT, "float": click.FLOAT}
_JOB_FIELDS: dict[str, click.ParamType[Any]] = {
    name: click.Choice(field.choices) if field.choices else _TYPES.get(field.kind, click.STRING)
    for name, field in _DESCRIPTIONS.items()
}
#: What is shown as the default of a field that has none.
_WHERE_NONE = {"delta_sigma": "delta", "init": "drawn", "ftol": "never", "gtol": "never"}
_CSV_OPTIONS = ("group", "x", "y", "weights")
#: Option -> the field of Samples that it sets.
_SAMPLES_OPTIONS = {"samples": "count", "spread": "spread", "noise": "noise"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
submission_argument = click.argument("submission", metavar="ID")
format_option = command_line.option(
    "--format", type=click.Choice(["parquet", "jsonl", "json", "csv"]), help="Instead of the suffix."
)
device_option = command_line.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")

_redis_option = command_line.option("--redis", "url", metavar="URL", help="Redis of the fleet  [default: $FITQ_REDIS_URL]")


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


class _Setting(click.ParamType[tuple[str, object]]):
    name = "FIELD=VALUE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, object]:
        field, equals, text = value.partition("=")
        field = field.strip().replace("-", "_")
        if not equals or field not in _JOB_FIELDS:
            known = ", ".join(_JOB_FIELDS)
            self.fail(f"{value!r}: expected FIELD=VALUE with one of {known}; all else is a job's own", parameter, context)
        try:
            return field, _JOB_FIELDS[field].convert(text.strip(), parameter, context)
        except click.BadParameter as error:
            return self.fail(f"{field}: {error.message}", parameter, context)


class Inputs(NamedTuple):
    """Jobs that are read while they are taken."""

    jobs: Iterator[pa.RecordBatch]
    #: What people call the place they come from.
    source: str
    #: Values of fields that jobs do not give, and how many jobs gave them all the same.
    defaults: dict[str, object]
    given: Counter[str]

    def notices(self) -> list[str]:
        """Once all jobs are taken: a line for each option that did not reach all of them."""
        counts = ((name, self.given[name], value) for name, value in self.defaults.items())
        return [
            f"{jobs:,} {'job sets' if jobs == 1 else 'jobs set'} {name} {'itself' if jobs == 1 else 'themselves'}; "
            f"--set {name}={value} overrides {'it' if jobs == 1 else 'them'}"
            for name, jobs, value in counts
            if jobs
        ]


def input_options(command: Command) -> Command:
    """INPUT and everything that says how to read it; the command takes them as keywords for `jobs_from`."""
    options = [
        click.argument("input", required=False),
        command_line.option("--group", metavar="COLUMN", help="CSV: rows that agree in this column are one job."),
        command_line.option("--x", metavar="COLUMN", help="CSV: column of x."),
        command_line.option("--y", metavar="COLUMN", help="CSV: column of y."),
        command_line.option("--weights", metavar="COLUMN", help="CSV: column of weights."),
        command_line.option("--polynomial", type=_Polynomial(), help="Generate samples of this one, highest power first."),
        command_line.option("--samples", type=int, help="Generated: points in each sample set  [default: 20]"),
        command_line.option("--spread", type=float, help="Generated: standard deviation of x  [default: 5]"),
        command_line.option("--noise", type=float, help="Generated: standard deviation of the error of y  [default: 0]"),
        command_line.option("--count", type=int, help="Generated: number of jobs  [default: 1]"),
        command_line.option("--seed", type=int, help="Generated: seed of the first job, the others count on  [default: 0]"),
        click.option("--tag", multiple=True, metavar="NAME", help="Table: a column that results carry along; repeatable."),
        click.option("--tags", is_flag=True, help="Table: all columns that have no other meaning, in the same way."),
        click.option("--set", multiple=True, type=_Setting(), help="Option for all jobs, whatever they give; repeatable."),
        *(_field_option(field) for field in _DESCRIPTIONS.values()),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _field_option(field: FieldDescription) -> Callable[[Command], Command]:
    # The default is only shown: an option that is not given must not override the field of a job.
    shown = _WHERE_NONE.get(field.name, "by optimizer") if field.default is None else field.default
    name, text = f"--{field.name.replace('_', '-')}", f"{field.summary}  [default: {shown}]"
    return command_line.option(name, type=_JOB_FIELDS[field.name], help=text)


def jobs_from(options: dict[str, Any]) -> Inputs:
    """The jobs that the options of `input_options` describe.

    Raises:
        UsageError: options that do not go together.
        InputError: see `fitq.readers`.
    """
    from fitq import readers

    _check_usage(options)
    given = {name: value for name, value in options.items() if value is not None}
    defaults, overrides = {name: given[name] for name in _JOB_FIELDS if name in given}, dict(options["set"])
    counts = Counter[str]()
    if "polynomial" in given:
        samples = Samples(**{field: given[name] for name, field in _SAMPLES_OPTIONS.items() if name in given})
        text = ",".join(f"{coefficient:g}" for coefficient in given["polynomial"])
        recipe = given["polynomial"], given.get("count", 1), samples, given.get("seed", 0), defaults | overrides
        return Inputs(readers.from_recipe(*recipe), f"polynomial {text}", defaults, counts)
    defaults_from_mapping(defaults | overrides, "command line")
    columns = readers.Columns(*(options[name] for name in _CSV_OPTIONS)) if given.keys() & set(_CSV_OPTIONS) else None
    instructions = readers.Instructions(overrides, options["tag"], options["tags"], counts)
    return Inputs(readers.from_file(given["input"], columns, defaults, instructions), given["input"], defaults, counts)


def changes_from(options: dict[str, Any]) -> dict[str, object]:
    """What `--set` of `input_options` says, where there is no INPUT.

    Raises:
        UsageError: other options are given, or two values for one field.
    """
    given = [name for name, value in options.items() if name != "set" and value not in (None, ()) and value is not False]
    if given:
        name = given[0].replace("_", "-")
        raise click.UsageError(f"--{name} says how to read INPUT, and there is none; --set changes jobs that are kept")
    _check_settings(options)
    return dict(options["set"])


def _check_usage(options: dict[str, Any]) -> None:
    given = {name for name, value in options.items() if value not in (None, ()) and value is not False}
    if ("input" in given) == ("polynomial" in given):
        raise click.UsageError(
            "give INPUT (a .jsonl, .csv, .parquet, .arrow or .npz file, or - for JSONL on stdin) or --polynomial"
        )
    other = (*_CSV_OPTIONS, "tag", "tags") if "polynomial" in given else (*_SAMPLES_OPTIONS, "count", "seed")
    for name in other:
        if name in given:
            raise click.UsageError(f"--{name} does not go with {'--polynomial' if 'polynomial' in given else 'a file'}")
    missing = [name for name in ("group", "x", "y") if name not in given]
    if given & set(_CSV_OPTIONS) and missing:
        raise click.UsageError(f"a CSV needs --group, --x and --y; missing: --{', --'.join(missing)}")
    _check_settings(options)


def _check_settings(options: dict[str, Any]) -> None:
    """Refuse two values for one field."""
    values: dict[str, object] = {}
    for field, value in options["set"]:
        if field in values:
            raise click.UsageError(f"--set gives {field} two values: {values[field]} and {value}")
        if options[field] is not None:
            option = f"--{field.replace('_', '-')}"
            raise click.UsageError(f"{option} {options[field]} and --set {field}={value}: give one; --set is for all jobs")
        values[field] = value
