"""The README is true: its scripts run, and it names every field, setting and command there is."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from fitq.cli import main
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.schemas import RESULT_SCHEMA, Status
from fitq_shared.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = main.list_commands(click.Context(main))
SCRIPTS = dict(zip(("poll.py", "bands.py"), re.findall(r"```python\n(.*?)```", README, re.DOTALL), strict=True))


def section(title: str) -> str:
    """What stands under a heading of the README."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("example", "printed"),
    [
        ("poll.py", r"'id': 'line-0', 'status': 'converged'"),
        ("bands.py", r"(?s)'prediction_low': \[10\.119\d*, 11\.974\d*\].*'p': \[5\.94\d*e-05, 0\.00572\d*\]"),
    ],
)
def test_scripts_run_against_a_worker(worker: Any, example: str, printed: str) -> None:
    """The scripts of the README are those of examples/, at most ten lines each, and print what they are for."""
    environment = os.environ | worker.settings.environment()

    run = subprocess.run(
        [sys.executable, "-c", SCRIPTS[example]], env=environment, capture_output=True, text=True, timeout=120
    )

    assert SCRIPTS[example] == (ROOT / "examples" / example).read_text()
    assert len([line for line in SCRIPTS[example].splitlines() if line]) <= 10
    assert run.returncode == 0, run.stderr
    assert re.search(printed, run.stdout)


@pytest.mark.parametrize("name", FitJob.__struct_fields__)
def test_every_field_of_a_job_is_named(name: str) -> None:
    """In the list of what a job may say; docs/jobs.md explains each."""
    assert f"`{name}`" in "".join(line for line in section("A job").splitlines(True) if line.startswith(("- ", "  ")))


@pytest.mark.parametrize("name", RESULT_SCHEMA.names)
def test_every_field_of_a_result_is_explained(name: str) -> None:
    """In the first column of the table."""
    assert name in re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]*)\|", section("A result"), re.MULTILINE)))


@pytest.mark.parametrize("status", Status)
def test_every_status_is_explained(status: Status) -> None:
    """In the row of `status`."""
    (row,) = re.findall(r"^\| `status`.*$", section("A result"), re.MULTILINE)
    assert f"`{status}`" in row


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_shown(name: str) -> None:
    """As it is typed."""
    assert re.search(rf"\bfitq {name}\b", README)


def test_what_is_typed_exists() -> None:
    """Commands, their options, and make's targets."""
    context = click.Context(main)
    commands = {name: command for name in COMMANDS if (command := main.get_command(context, name)) is not None}
    typed = re.findall(r"\bfitq ([a-z]+)\b([^\n`;#|)]*)", README)
    for name, arguments in typed:
        if name not in COMMANDS and f"`fitq {name}" not in README:
            continue  # a sentence about fitq
        assert name in commands, name
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", arguments)) <= known, f"fitq {name}{arguments}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= targets


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_setting_is_explained(name: str) -> None:
    """With its default."""
    default = getattr(Settings(), name)

    assert re.search(rf"`{PREFIX}{name.upper()}` \| `?{re.escape(str(default))}`? \|", README)
