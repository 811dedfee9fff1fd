"""What others import: every exported name is there and documented, and a strict type checker knows its types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fitq
import fitq_shared
import fitq_worker

ROOT = Path(__file__).parents[2]

#: What a user's script does, with the types that it relies on.
SCRIPT = """
from typing import Any, assert_type

import fitq

client = fitq.Client(url="redis://localhost:6379/0")
job = fitq.FitJob(x=[0.0, 1.0, 2.0], y=[1.0, 3.0, 5.0], degree=1)
submission = client.submit([job], key="line")
assert_type(submission, fitq.Submission)
assert_type(submission.id, str)
manifest = submission.wait(timeout_seconds=10)
assert_type(manifest.done_jobs, int)
assert_type(manifest.finished, bool)
assert_type(manifest.statuses, dict[str, int])
assert_type(submission.result("0"), dict[str, Any])
assert_type(manifest.fits_per_second, float)  # error: None before the first fit
try:
    submission.delete()
except fitq.errors.FitqError as error:
    print(error)
client.submt([job])  # error: no such method
"""


@pytest.mark.parametrize("name", fitq.__all__)
def test_every_exported_name_is_there_and_documented(name: str) -> None:
    """`dir` and `help` lead to all of them."""
    assert name in dir(fitq)
    assert (getattr(fitq, name).__doc__ or "").strip()


def test_the_packages_have_one_version_and_tell_type_checkers_that_they_are_typed() -> None:
    """A py.typed in each."""
    assert fitq.__version__ == fitq_shared.__version__
    for package in (fitq, fitq_shared, fitq_worker):
        assert (Path(str(package.__file__)).parent / "py.typed").is_file()


def test_a_strict_type_checker_knows_the_public_types(tmp_path: Path) -> None:
    """It finds the two mistakes of the script, and nothing else."""
    pytest.importorskip("mypy", reason="the group `lint` is not installed")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    mistakes = [line for line in done.stdout.splitlines() if ": error: " in line]
    expected = [number for number, line in enumerate(SCRIPT.splitlines(), 1) if "# error" in line]
    assert [int(line.split(":")[1]) for line in mistakes] == expected, done.stdout
