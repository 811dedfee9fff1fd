"""The README is true: its scripts run, and it names every field, setting and command there is."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fitq.cli import main
from fitq_shared.jobs.job import FitJob
from fitq_shared.jobs.schemas import RESULT_SCHEMA, Status
from fitq_shared.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SCRIPTS = dict(zip(("poll.py", "bands.py"), re.findall(r"```python\n(.*?)```", README, re.DOTALL), strict=True))


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


@pytest.mark.parametrize("name", [*RESULT_SCHEMA.names, *FitJob.__struct_fields__, *Status, *main.list_commands(None)])  # type: ignore[arg-type]
def test_every_name_is_explained(name: str) -> None:
    """Fields of jobs and results, statuses and commands."""
    assert re.search(rf"`{name}`|fitq {name}\b", README)


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_setting_is_explained(name: str) -> None:
    """With its default."""
    default = getattr(Settings(), name)

    assert re.search(rf"`{PREFIX}{name.upper()}` \| `?{re.escape(str(default))}`? \|", README)
