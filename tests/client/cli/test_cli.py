"""The command `fitq`: what people and scripts see of it, and the exit codes they can count on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pyarrow as pa
import pytest
import redis
from click.testing import CliRunner, Result
from pyarrow import parquet

from fitq.cli import COMMANDS, main
from fitq.cli.exit_codes import BAD_INPUT, FAILED_FITS, FAILURE, INTERRUPTED, OK, TIMEOUT
from fitq.cli.run import command as run
from fitq.cli.submit import command as submit
from fitq.submission import Submission
from fitq_shared.jobs import frames, schemas
from fitq_shared.settings import Settings
from fitq_shared.store.fitting import FittingStore
from fitq_shared.store.keys import SubmissionKeys
from fitq_shared.store.submitting import SubmittingStore
from fitq_worker.cli import main as worker_main

Fitq = Callable[..., Result]
Finish = Callable[..., None]

GOOD = '{"id": "a", "x": [0, 1, 2], "y": [1, 3, 5], "degree": 1}\n'
FITQ = [sys.executable, "-c", "from fitq.cli import main; main(prog_name='fitq')"]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process that uses the test's server and namespace."""
    fields = {f"FITQ_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(settings).items()}
    return {**os.environ, **fields}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file with two jobs, the second of which `finish` makes fail."""
    path = tmp_path / "good.jsonl"
    path.write_text(GOOD + '{"id": "bad", "x": [null], "y": [1]}\n')
    return path


@pytest.fixture
def submitted(fitq: Fitq, good: Path) -> str:
    """The id of a submission of that file."""
    return fitq("submit", good).stdout.strip()


# What costs nothing.


def test_help_is_light() -> None:
    """In a fresh process: no pyarrow, celery, torch or numpy."""
    heavy = ("pyarrow", "celery", "kombu", "redis", "torch", "numpy", "fitq_worker")
    script = (
        "import sys\nfrom fitq.cli import main\n"
        "try:\n    main(['--help'], prog_name='fitq')\n"
        f"finally:\n    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Exit codes" in done.stdout


def test_importing_fitq_is_light() -> None:
    """`import fitq` alone brings none of the heavy packages."""
    script = "import sys, fitq; print([name for name in ('pyarrow', 'celery', 'numpy', 'redis') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_agrees_with_the_list(name: str) -> None:
    """The line in the list of commands is the command's own, and every option says what it does."""
    done = CliRunner().invoke(main, [name, "--help"])
    command = main.get_command(click.Context(main), name)
    assert done.exit_code == OK
    assert command is not None
    assert command.short_help == COMMANDS[name]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_the_list_of_commands_is_complete() -> None:
    """`fitq --help` shows each of them; an unknown one is wrong usage."""
    shown = CliRunner().invoke(main, ["--help"]).stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert CliRunner().invoke(main, ["sumbit"]).exit_code == BAD_INPUT


#: Options that are given again and again, and the one that takes nothing.
REPEATABLE = ("tag", "set", "statuses", "ids", "help")


def single_options(root: click.Group) -> list[tuple[str, str, str]]:
    """Every option that takes one value: the command, the option and a value that it takes."""
    found = []
    for name in sorted({*root.list_commands(click.Context(root))} - {"warm"}):  # whose options are all lists
        command = root.get_command(click.Context(root), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag and option.name not in REPEATABLE:
                kind = option.type
                value = kind.choices[0] if isinstance(kind, click.Choice) else "/" if isinstance(kind, click.Path) else "1"
                found.append((name, option.opts[-1], str(value)))
    return found


@pytest.mark.parametrize(
    ("root", "command", "option", "value"),
    [(root, *option) for root in (main, worker_main) for option in single_options(root)],
)
def test_an_option_that_takes_one_value_is_not_repeated(root: click.Group, command: str, option: str, value: str) -> None:
    """Nobody can know which one is meant; the message names the option and what it was given."""
    done = CliRunner().invoke(root, [command, option, value, option, value, *["x"][: root is main and command != "ls"]])
    assert done.exit_code == BAD_INPUT
    assert re.search(rf"{option} takes one value and is given 2: \S+ and \S+", done.stderr)


def test_an_option_is_given_or_has_its_default() -> None:
    """Whatever helps to refuse it twice does not change it once."""
    params = submit.make_context("submit", ["in.csv", "--lr", "0.5", "--nesterov", "false", "--tag", "a"]).params
    given = {name: value for name, value in params.items() if value is not None}
    assert given == {
        "input": "in.csv", "lr": 0.5, "nesterov": False, "tag": ("a",), "tags": False, "set": (), "as_json": False
    } | {"key": "", "resume": ""}  # fmt: skip
    assert run.make_context("run", []).params["device"] == "auto"


# From submit to results.


def test_submit_prints_the_id_alone_on_standard_output(fitq: Fitq, good: Path, store: SubmittingStore) -> None:
    """So that `id=$(fitq submit ...)` works; the next commands go to standard error."""
    done = fitq("submit", good)
    assert done.exit_code == OK
    (manifest,) = store.manifests()
    assert done.stdout == f"{manifest.id}\n"
    assert done.stderr.splitlines()[0] == "2 jobs submitted; next:"
    assert f"fitq watch {manifest.id}" in done.stderr
    assert manifest.source == str(good)


def test_the_id_is_on_standard_output_when_standard_error_is_a_terminal(
    settings: Settings, good: Path, store: SubmittingStore
) -> None:
    """Nothing that is drawn on the terminal swallows or decorates it."""
    terminal, slave = os.openpty()
    done = subprocess.run(
        [*FITQ, "submit", good], env=environment(settings), stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    os.close(terminal)
    assert [f"{manifest.id}\n" for manifest in store.manifests()] == [done.stdout]


def test_status_wait_and_watch_tell_of_the_same_manifest(fitq: Fitq, submitted: str, finish: Finish) -> None:
    """Before and after the fits, as text and as JSON; failed fits are exit code 5 where something was waited for."""
    assert fitq("status", submitted).stdout == "waiting for a worker  0 of 2 fits\n"
    assert fitq("wait", submitted, "--timeout", "0.1").exit_code == TIMEOUT
    finish(submitted)
    assert "2 of 2 fits" in fitq("status", submitted).stdout
    for command, code in (("status", OK), ("wait", FAILED_FITS), ("watch", FAILED_FITS)):
        done = fitq(command, submitted, "--json")
        assert done.exit_code == code
        document = json.loads(done.stdout)
        assert (document["schema"], document["finished"], document["statuses"]) == (1, True, {"converged": 1, "invalid": 1})
    assert "finished  2 of 2 fits" in fitq("watch", submitted).stdout


def test_good_fits_are_exit_code_0(fitq: Fitq, finish: Finish, tmp_path: Path) -> None:
    """Nothing failed, nothing to say."""
    (tmp_path / "one.jsonl").write_text(GOOD)
    submission = fitq("submit", tmp_path / "one.jsonl").stdout.strip()
    finish(submission)
    assert fitq("wait", submission).exit_code == OK
    assert fitq("watch", submission).exit_code == OK


def test_results_go_to_standard_output_as_jsonl(fitq: Fitq, submitted: str, finish: Finish) -> None:
    """One line a fit, null for what is missing; unfinished submissions say so on standard error."""
    early = fitq("results", submitted)
    assert (early.stdout, "not finished" in early.stderr) == ("", True)
    finish(submitted)
    rows = [json.loads(line) for line in fitq("results", submitted).stdout.splitlines()]
    assert [(row["id"], row["status"], row["loss"]) for row in rows] == [("a", "converged", 1.5), ("bad", "invalid", None)]
    assert json.loads(fitq("results", submitted, "--json").stdout)["rows"] == rows


def test_results_and_traces_go_to_files_by_suffix_or_format(
    fitq: Fitq, submitted: str, finish: Finish, tmp_path: Path
) -> None:
    """`--format` wins over the suffix; an unknown suffix is refused before anything is asked."""
    finish(submitted)
    assert fitq("results", submitted, "-o", tmp_path / "r.csv").exit_code == OK
    assert (tmp_path / "r.csv").read_text().startswith('"index","id","status"')
    assert fitq("results", submitted, "--traces", "-o", tmp_path / "t.dat", "--format", "csv").exit_code == OK
    assert (tmp_path / "t.dat").read_text().splitlines()[1] == '0,"a",0,4'
    assert fitq("results", submitted, "-o", tmp_path / "r.dat").exit_code == BAD_INPUT


def test_a_cursor_leads_from_one_call_to_the_next(fitq: Fitq, finish: Finish, tmp_path: Path) -> None:
    """It is the last line on standard error, and a field of the JSON document; `--since` has no row twice."""
    path = tmp_path / "two.jsonl"
    path.write_text('{"id": "line", "polynomial": [1], "degree": 1}\n{"id": "flat", "polynomial": [1], "degree": 0}\n')
    submission = fitq("submit", path).stdout.strip()
    finish(submission, 1)
    first = fitq("results", submission)
    assert [json.loads(line)["id"] for line in first.stdout.splitlines()] == ["flat"]
    name, cursor = first.stderr.splitlines()[-1].split()
    assert (name, json.loads(fitq("results", submission, "--json").stdout)["cursor"]) == ("cursor:", cursor)
    assert fitq("results", submission, "--since", cursor).stdout == ""
    finish(submission, 0)
    for options in ([], ["--follow"], ["--traces"]):
        more = fitq("results", submission, "--since", cursor, *options)
        assert [json.loads(line)["id"] for line in more.stdout.splitlines()] == ["line"]
    assert fitq("results", submission, "--since", "soon").exit_code == BAD_INPUT
    assert fitq("results", submission, "--since", cursor, "--ordered").exit_code == BAD_INPUT


def test_followed_results_come_by_completion_unless_ordered(fitq: Fitq, finish: Finish, tmp_path: Path) -> None:
    """Without following the order is that of the input."""
    path = tmp_path / "three.jsonl"
    path.write_text("".join(f'{{"polynomial": [1], "degree": {degree}}}\n' for degree in (1, 0, 1)))
    submission = fitq("submit", path).stdout.strip()
    finish(submission)
    for options, expected in ((["--follow"], "102"), (["--follow", "--ordered"], "012"), ([], "012")):
        lines = fitq("results", submission, *options).stdout.splitlines()
        assert "".join(json.loads(line)["id"] for line in lines) == expected


@pytest.mark.parametrize("options", [[], ["--follow"], ["--follow", "--ordered"]])
def test_a_folder_gets_results_and_traces(
    fitq: Callable[..., Result], submitted: str, finish: Callable[[str], None], tmp_path: Path, options: list[str]
) -> None:
    """The same rows as each has alone, and the cursor is told."""
    finish(submitted)
    result = fitq("results", submitted, "-o", tmp_path / "out", *options)
    assert (result.exit_code, result.stderr.startswith("cursor: ")) == (0, True)
    for name, more in (("results", []), ("traces", ["--traces"])):
        assert fitq("results", submitted, "-o", tmp_path / f"{name}.parquet", *options, *more).exit_code == 0
        tables = [parquet.read_table(folder / f"{name}.parquet") for folder in (tmp_path / "out", tmp_path)]
        assert str(tables[0].to_pylist()) == str(tables[1].to_pylist())  # as text, in which NaN equals NaN
    for wrong in (["--traces"], ["--id", "a"], ["--since", "soon"], ["--since", "1-1", "--ordered"]):
        assert fitq("results", submitted, "-o", tmp_path / "out", *wrong).exit_code == BAD_INPUT


def test_a_reader_that_leaves_ends_following_without_a_word(settings: Settings, fitq: Fitq, finish: Finish) -> None:
    """As in `fitq results ID --follow | head -1`: exit code 0, nothing on standard error, not even from Python's exit."""
    submission = fitq("submit", "--polynomial", "1", "--count", 9).stdout.strip()
    command = [*FITQ, "results", submission, "--follow"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(settings), stdout=pipe, stderr=pipe, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        follower.stdout.close()
        finish(submission)
        assert (follower.wait(20), follower.stderr.read()) == (OK, "")


def test_ctrl_c_while_following_tells_where_to_go_on(settings: Settings, fitq: Fitq, finish: Finish, tmp_path: Path) -> None:
    """The lines that are out are behind the cursor on standard error."""
    path = tmp_path / "two.jsonl"
    path.write_text('{"polynomial": [1], "degree": 1}\n{"polynomial": [1], "degree": 0}\n')
    submission = fitq("submit", path).stdout.strip()
    finish(submission, 1)
    command = [*FITQ, "results", submission, "--follow"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(settings), stdout=pipe, stderr=pipe, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["id"] == "1"
        time.sleep(0.2)  # the line is out before its cursor is noted
        follower.send_signal(signal.SIGINT)
        _, stderr = follower.communicate(timeout=20)
    assert follower.returncode == INTERRUPTED
    cursor = stderr.splitlines()[0].removeprefix("cursor: ")
    assert fitq("results", submission, "--since", cursor).stdout == ""


def test_an_error_while_following_tells_where_to_go_on(
    fitq: Fitq, finish: Finish, redis_client: redis.Redis, settings: Settings, tmp_path: Path
) -> None:
    """Lines that are out are not written again by who goes on when the error is mended."""
    path = tmp_path / "six.jsonl"
    path.write_text("".join(f'{{"polynomial": [1], "degree": {degree}}}\n' for degree in range(6)))
    submission = fitq("submit", path).stdout.strip()
    finish(submission, *range(6))
    last = SubmissionKeys(settings.namespace, submission).results(5)
    redis_client.rename(last, f"{last}-away")
    broken = fitq("results", submission, "--follow")
    redis_client.rename(f"{last}-away", last)
    assert (broken.exit_code, "are gone or damaged" in broken.stderr) == (FAILURE, True)
    cursor = broken.stderr.splitlines()[0].removeprefix("cursor: ")
    rest = fitq("results", submission, "--follow", "--since", cursor)
    found = [json.loads(line)["index"] for line in (broken.stdout + rest.stdout).splitlines()]
    assert (sorted(found), len(rest.stdout.splitlines()) < 6) == (list(range(6)), True)


def test_one_job_by_its_id(fitq: Fitq, submitted: str, finish: Finish) -> None:
    """Its result or trace; an id that is not there is bad input, one that is not fitted yet is not."""
    assert fitq("results", submitted, "--id", "a").exit_code == FAILURE
    finish(submitted)
    assert [json.loads(line)["id"] for line in fitq("results", submitted, "--id", "bad").stdout.splitlines()] == ["bad"]
    assert json.loads(fitq("results", submitted, "--id", "a", "--json", "--traces").stdout)["rows"][0]["step"] == [
        0,
        1,
        2,
        3,
    ]
    assert fitq("results", submitted, "--id", "nobody").exit_code == BAD_INPUT
    assert fitq("results", submitted, "--id", "a", "--follow").exit_code == BAD_INPUT


def test_ls_shows_submissions_and_delete_removes_them(fitq: Fitq, submitted: str, good: Path) -> None:
    """As a table and as JSON; an id that is not there is bad input and removes nothing else."""
    assert submitted in fitq("ls").stdout
    assert [item["source"] for item in json.loads(fitq("ls", "--json").stdout)["submissions"]] == [str(good)]
    assert fitq("delete", submitted, "nonsense").exit_code == BAD_INPUT
    assert fitq("delete", submitted).stdout == f"deleted {submitted}\n"
    assert json.loads(fitq("ls", "--json").stdout) == {"schema": 1, "submissions": []}
    assert "no submissions" in fitq("ls").stderr
    assert fitq("status", submitted).exit_code == BAD_INPUT


def test_generated_jobs_take_their_options(fitq: Fitq, fitting: FittingStore) -> None:
    """The recipe of the notebook's jobs, as JSON."""
    numbers = {"samples": 9, "spread": 2, "noise": 0.5, "count": 1000, "seed": 4, "degree": 1}
    options = [text for name, value in numbers.items() for text in (f"--{name}", value)] + ["--set", "lr=0.5"]
    document = json.loads(fitq("submit", "--polynomial", "1,2,3", *options, "--json").stdout)
    assert (document["jobs"], document["source"], document["state"]) == (1000, "polynomial 1,2,3", "closed")
    claim = fitting.claim(document["id"], 0, "test")
    assert claim is not None
    last = frames.decode(claim.jobs_frame, schemas.JOB_SCHEMA).to_pylist()[-1]
    names = ("count", "spread", "noise", "seed", "degree", "lr")
    assert [last[name] for name in names] == [9, 2.0, 0.5, 1003, 1, 0.5]


def test_jobs_come_through_a_pipe(fitq: Fitq) -> None:
    """`-` is JSONL on standard input."""
    assert json.loads(fitq("submit", "-", "--json", input=GOOD).stdout)["jobs"] == 1


# What is said of all jobs.

TEN = "".join(
    json.dumps(
        {"x": [0, 1, 2], "y": [1, 3, 5], "degree": 1} | ({"lr": 0.5} if n % 2 else {}) | ({"steps": 9} if n == 3 else {})
    )
    + "\n"
    for n in range(10)
)


def stored(fitting: FittingStore, submission: str) -> list[dict[str, Any]]:
    """The jobs of a submission in the order of the input."""
    claims = [fitting.claim(submission, chunk, "test") for chunk in range(fitting.manifest(submission).chunks)]
    rows = [row for claim in claims if claim for row in frames.decode(claim.jobs_frame, schemas.JOB_SCHEMA).to_pylist()]
    return sorted(rows, key=lambda row: int(row["index"]))


def test_an_option_that_jobs_set_themselves_is_said_and_set_overrides_them(
    fitq: Fitq, fitting: FittingStore, tmp_path: Path
) -> None:
    """A line on standard error for each such option; the id stays alone on standard output."""
    (tmp_path / "in.jsonl").write_text(TEN)
    done = fitq("submit", tmp_path / "in.jsonl", "--lr", "0.01", "--steps", 7, "--ridge", 1)
    assert "5 jobs set lr themselves; --set lr=0.01 overrides them\n" in done.stderr
    assert "1 job sets steps itself; --set steps=7 overrides it\n" in done.stderr
    assert "ridge" not in done.stderr
    rows = stored(fitting, done.stdout.strip())
    assert [row["lr"] for row in rows] == [0.01, 0.5] * 5
    done = fitq("submit", tmp_path / "in.jsonl", "--set", "lr=0.01", "--set", "steps=7", "--set", "step-size=3")
    assert (done.exit_code, "themselves" in done.stderr, "overrides" in done.stderr) == (OK, False, False)
    assert {(row["lr"], row["steps"], row["step_size"]) for row in stored(fitting, done.stdout.strip())} == {(0.01, 7, 3)}


def test_the_count_is_that_of_all_jobs_of_a_table(fitq: Fitq, tmp_path: Path) -> None:
    """Over several batches, and with --key the second time too."""
    rows = [{"polynomial": [1.0], "lr": 0.5 if n % 4 == 0 else None} for n in range(70_000)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=9999)
    for _ in range(2):
        done = fitq("submit", tmp_path / "in.parquet", "--lr", "0.1", "--key", "night")
        assert (done.exit_code, done.stderr.splitlines()[0]) == (
            OK, "17,500 jobs set lr themselves; --set lr=0.1 overrides them"
        )  # fmt: skip


def test_tags_come_with_the_results(
    fitq: Fitq, store: SubmittingStore, fitting: FittingStore, finish: Finish, tmp_path: Path
) -> None:
    """From columns of a table to an object in JSON, for one job too."""
    table = pa.table(
        {"x": [[0.0, 1.0]] * 2, "y": [[0.0, 1.0]] * 2, "degree": [1, 1], "site": ["A", "B"], "lat": [1.5, None]}
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    refused = fitq("submit", tmp_path / "in.parquet", "--tag", "lat")
    assert (refused.exit_code, "site: no such field" in refused.stderr) == (BAD_INPUT, True)
    assert "--tag site, or --tags" in refused.stderr
    submission = fitq("submit", tmp_path / "in.parquet", "--tag", "site", "--tag", "lat").stdout.strip()
    assert [row["tags"] for row in stored(fitting, submission)] == ['{"site":"A","lat":1.5}', '{"site":"B","lat":null}']
    submission = fitq("submit", tmp_path / "in.parquet", "--tags").stdout.strip()
    finish(submission)
    lines = [json.loads(line) for line in fitq("results", submission).stdout.splitlines()]
    assert [line["tags"] for line in lines] == [{"site": "A", "lat": 1.5}, {"site": "B", "lat": None}]
    assert json.loads(fitq("results", submission, "--id", "1").stdout)["tags"] == {"site": "B", "lat": None}
    assert Submission(store, submission).result("0")["tags"] == {"site": "A", "lat": 1.5}
    assert Submission(store, submission).results()["tags"].to_pylist()[0] == '{"site":"A","lat":1.5}'
    cells = fitq("results", submission, "--format", "csv").stdout.splitlines()
    assert '"tag.site","tag.lat"' in cells[0]


# What is wrong.


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ('{"x": [1', [], r"in.jsonl:1: not a JSON object"),
        ('{"id": "j", "x": "one", "y": [1]}', [], "in.jsonl:1: job 'j': x = 'one': expected"),
        ('{"id": "j", "x": [1], "y": [1], "colour": 1}', [], "job 'j': colour = 1: no such field"),
        ('{"id": "j", "x": [nan], "y": [1]}', [], "not a JSON object: Expecting value"),
        ('{"id": "j", "x": [1], "y": [1], "degree": 31}', [], "job 'j': degree = 31: expected `int` <= 30"),
        ("", [], "in.jsonl is empty"),
        (GOOD, ["--degree", "31"], "command line: degree = 31"),
        (GOOD, ["--trace", "some"], "command line: trace = 'some': expected none, full, every:K or points:N"),
        (GOOD, ["--group", "a"], "missing: --x, --y"),
        (GOOD, ["--count", "3"], "--count does not go with a file"),
        (GOOD, ["--polynomial", "1,2"], "give INPUT"),
        (GOOD, ["--set", "lr=fast"], "lr: 'fast' is not a valid float"),
        (GOOD, ["--set", "loss=hinge"], "loss: 'hinge' is not one of"),
        (GOOD, ["--set", "lr=-1"], "command line: lr = -1.0: expected `float` > 0"),
        (GOOD, ["--set", "trace=some"], "command line: trace = 'some'"),
        *(
            (GOOD, ["--set", f"{name}=1"], "expected FIELD=VALUE")
            for name in ("id", "x", "weights", "polynomial", "tags", "")
        ),
        (GOOD, ["--set", "lr"], "'lr': expected FIELD=VALUE"),
        (GOOD, ["--set", "lr=1", "--set", "lr=2"], "--set gives lr two values: 1.0 and 2.0"),
        (GOOD, ["--set", "step_size=1", "--step-size", "2"], "--step-size 2 and --set step_size=1: give one"),
        (GOOD, ["--tag", "site"], "in.jsonl: --tag and --tags name columns"),
        (GOOD, ["--samples", "9", "--samples", "8"], "--samples takes one value and is given 2: 9 and 8"),
        (GOOD * 2, [], "id = 'a': already used at"),
        (None, [], "No such file"),
    ],
)
def test_bad_input_is_exit_code_2_with_one_message_and_nothing_submitted(
    fitq: Fitq, store: SubmittingStore, tmp_path: Path, text: str | None, arguments: list[str], message: str
) -> None:
    """The message says what is wrong and where; no traceback, no id, no submission."""
    path = tmp_path / "in.jsonl"
    if text is not None:
        path.write_text(text)
    done = fitq("submit", path, *arguments)
    assert (done.exit_code, done.stdout) == (BAD_INPUT, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert store.manifests() == []


def test_a_bad_line_far_down_withdraws_what_was_submitted(fitq: Fitq, store: SubmittingStore, tmp_path: Path) -> None:
    """The first chunks were on their way already."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"polynomial": [1]}\n' * 20_000 + "oops\n")
    done = fitq("submit", path)
    assert done.exit_code == BAD_INPUT
    assert "in.jsonl:20001: not a JSON object" in done.stderr
    assert store.manifests() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tag", "a"], "--tag does not go with --polynomial"),
        (["--tags"], "--tags does not go with --polynomial"),
        (["--samples", 10_000_001], "samples.count = 10000001: expected `int` <= 10000000"),
        (["--samples", 100_001, "--loss", "l1"], "100,001 points; with loss l1 at most 100,000, with mse 10,000,000"),
        (["--samples", 1001, "--count", 10**7], "10,010,000,000 points in all; at most 10,000,000,000"),
    ],
)
def test_generated_jobs_have_limits_too(fitq: Fitq, store: SubmittingStore, arguments: list[object], message: str) -> None:
    """Said before anything is drawn."""
    done = fitq("submit", "--polynomial", "1,2", *arguments)
    assert (done.exit_code, message in done.stderr, store.manifests()) == (BAD_INPUT, True, [])


def test_sick_samples_are_no_bad_input(fitq: Fitq, tmp_path: Path) -> None:
    """Too few points and missing values are for the worker to judge, each in its own fit's status."""
    (tmp_path / "in.jsonl").write_text('{"x": [1], "y": [1], "degree": 3}\n{"x": [1, null], "y": [1, 2]}\n')
    assert fitq("submit", tmp_path / "in.jsonl").exit_code == OK


@pytest.mark.parametrize(
    "arguments", [["submit", "--polynomial", "1"], ["ls"], ["status", "x"], ["wait", "x"], ["delete", "x"]]
)
def test_no_server_is_exit_code_1_with_the_url(fitq: Fitq, arguments: list[str]) -> None:
    """The password is masked and the next step is named."""
    done = fitq(*arguments, "--redis", "redis://:secret@127.0.0.1:1/0")
    assert done.exit_code == FAILURE
    assert "no Redis answers at redis://:***@127.0.0.1:1/0" in done.stderr
    assert "fitq run" in done.stderr
    assert "secret" not in done.stderr


def test_a_setting_that_makes_no_sense_is_bad_input(fitq: Fitq, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable."""
    monkeypatch.setenv("FITQ_TTL_SECONDS", "soon")
    done = fitq("ls")
    assert (done.exit_code, "FITQ_TTL_SECONDS='soon'" in done.stderr) == (BAD_INPUT, True)


def test_ctrl_c_detaches_from_a_watch(settings: Settings, submitted: str, store: SubmittingStore) -> None:
    """Exit code 130, a way back, and the submission goes on."""
    arguments: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*FITQ, "watch", submitted], env=environment(settings), **arguments) as watch:
        assert "waiting for a worker" in watch.stdout.readline()  # type: ignore[union-attr]
        watch.send_signal(signal.SIGINT)
        _, stderr = watch.communicate(timeout=20)
    assert watch.returncode == INTERRUPTED
    assert f"fitq watch {submitted}" in stderr
    assert store.manifest(submitted).state == "closed"


# Garbage.


def test_garbage_is_shown_first_and_removed_on_demand(fitq: Fitq, submitted: str) -> None:
    """A submission is none, in any state."""
    assert fitq("gc", "--dry-run").stdout == "would remove 0 keys, 0 files, 0 folders\n"
    assert fitq("gc").stdout == "removed 0 keys, 0 files, 0 folders\n"
    assert json.loads(fitq("gc", "--json", "--folders").stdout)["removed"] is True
    assert fitq("status", submitted).exit_code == OK


@pytest.mark.parametrize("name", ["../victim", "a}b", "*", "", "a b", "-x/..", "é"])
def test_an_id_that_is_none_is_not_found(fitq: Fitq, name: str) -> None:
    """It never becomes a key, a pattern or a path."""
    for command in ("status", "delete", "cancel", "results"):
        done = fitq(command, "--", name)
        assert (done.exit_code, "no submission" in done.stderr) == (BAD_INPUT, True)
