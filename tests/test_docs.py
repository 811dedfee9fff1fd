"""The documentation is true: what is generated is up to date, and every path and link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fitq.cli import exit_codes

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
#: Tests that a page names as proof.
TESTS = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
#: Files and folders that are named in code marks: at least one slash, or a module of ours.
PATHS = re.compile(r"`((?:client|worker|shared|tests|docs|benchmarks|examples)/[\w./-]*)`")


def test_the_reference_of_a_job_is_up_to_date() -> None:
    """`make reference` writes it."""
    command = [sys.executable, str(ROOT / "docs" / "write_jobs.py")]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "jobs.md").read_text() == written


def test_the_exit_codes_are_those_of_the_code() -> None:
    """One table in code, README and help."""
    rows = "".join(f"| {code} | {meaning} |\n" for code, meaning in exit_codes.MEANINGS.items())
    assert f"| exit code | meaning |\n|---|---|\n{rows}\n" in (ROOT / "README.md").read_text()


def test_every_guarantee_names_a_test_that_there_is() -> None:
    """And every test that a page names is there."""
    guarantees = (ROOT / "docs" / "guarantees.md").read_text()
    promised = guarantees.partition("## What is not promised")[0]
    for line in re.findall(r"(?m)^- .+(?:\n  .+)*", promised):
        assert TESTS.search(line), line
    for page in PAGES:
        for path, name in TESTS.findall(page.read_text()):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page.name}: {path}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    """Relative links from the page, paths in code marks from the root."""
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in PATHS.findall(text) if not (ROOT / path).exists()]
    assert missing == []
