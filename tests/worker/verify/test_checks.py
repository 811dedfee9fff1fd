"""`fitq-worker verify`: data with certified answers, fitted by the command as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fitq_shared.errors import DeviceError, FileError
from fitq_worker.verify.certified import CertifiedSet, read, wampler_sets
from fitq_worker.verify.checks import correct_digits, verify

Checks = dict[str, dict[str, Any]]

#: What the project promises; written out again so that the command's own figures cannot fall unnoticed.
WAMPLER_DIGITS = {"Wampler1": 9, "Wampler2": 12, "Wampler3": 9, "Wampler4": 9, "Wampler5": 8}
MEASURED_DIGITS = {"Norris": 12, "Pontius": 12, "Filip": 13}
STDERR_DIGITS = 8
R2_TOLERANCE = 1e-5

#: The line fitted to (0, 1), (1, 3), (2, 5) and (3, 8), in the layout of NIST's files.
LINE = """NIST/ITL StRD
Data:          1 Response Variable (y)
     Parameter          Estimate             of Estimate
        B0        0.800000000000000          0.324037034920393
        B1        0.230000000000000E+01      0.173205080756888
     R-Squared            0.988785046728972
Data:       y          x
            1.0        0
            3.0        1
            5.0        2
            8.0        3

"""
MEASURED_FILES = ("Norris.dat", "Pontius.dat", "Filip.dat")


def run_verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on the CPU to its end."""
    command = [sys.executable, "-m", "fitq_worker", "verify", "--device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def wampler() -> Checks:
    """The checks of the built-in data sets by name."""
    return {check["data_set"]: check for check in json.loads(run_verify("--json").stdout)}


@pytest.fixture(scope="module")
def measured(nist: Path) -> Checks:
    """The checks of all data sets by name."""
    return {check["data_set"]: check for check in json.loads(run_verify("--json", "--data", str(nist)).stdout)}


@pytest.mark.parametrize(("name", "digits"), WAMPLER_DIGITS.items())
def test_exact_coefficients_of_wampler_are_certified(wampler: Checks, name: str, digits: int) -> None:
    """As many digits as promised, and the command requires no fewer."""
    assert wampler[name]["exact_digits"] >= digits
    assert wampler[name]["exact_digits_required"] == digits


@pytest.mark.parametrize(("name", "digits"), MEASURED_DIGITS.items())
def test_exact_coefficients_of_measured_data_are_certified(measured: Checks, name: str, digits: int) -> None:
    """As many digits as promised, and the command requires no fewer."""
    assert measured[name]["exact_digits"] >= digits
    assert measured[name]["exact_digits_required"] == digits


@pytest.mark.parametrize("name", ["Wampler3", "Wampler4", "Wampler5"])
def test_standard_errors_of_wampler_are_certified(wampler: Checks, name: str) -> None:
    """Eight digits."""
    assert wampler[name]["stderr_digits"] >= STDERR_DIGITS
    assert wampler[name]["stderr_digits_required"] == STDERR_DIGITS


@pytest.mark.parametrize("name", MEASURED_DIGITS)
def test_standard_errors_of_measured_data_are_certified(measured: Checks, name: str) -> None:
    """Eight digits."""
    assert measured[name]["stderr_digits"] >= STDERR_DIGITS
    assert measured[name]["stderr_digits_required"] == STDERR_DIGITS


@pytest.mark.parametrize("name", ["Wampler1", "Wampler2"])
def test_standard_errors_that_are_zero_have_no_digits(wampler: Checks, name: str) -> None:
    """The polynomial goes through every point."""
    assert wampler[name]["stderr_digits"] is None
    assert wampler[name]["ok"]


@pytest.mark.parametrize("name", WAMPLER_DIGITS)
def test_nadam_comes_to_the_r2_of_wampler(wampler: Checks, name: str) -> None:
    """The descent with default hyperparameters."""
    assert abs(wampler[name]["r2"] - wampler[name]["r2_certified"]) <= R2_TOLERANCE
    assert wampler[name]["r2_tolerance"] == R2_TOLERANCE


@pytest.mark.parametrize("name", MEASURED_DIGITS)
def test_nadam_comes_to_the_r2_of_measured_data(measured: Checks, name: str) -> None:
    """The descent with default hyperparameters."""
    assert abs(measured[name]["r2"] - measured[name]["r2_certified"]) <= R2_TOLERANCE
    assert measured[name]["r2_tolerance"] == R2_TOLERANCE


def test_table_has_a_line_for_each_data_set_and_says_ok() -> None:
    """Without any file; the exit status is 0, and no line is cut at 80 columns."""
    done = run_verify()
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("cpu: CPU\n")
    assert [line[0] for line in lines if line[-1] == "ok"] == list(WAMPLER_DIGITS)
    assert "…" not in done.stdout


def test_missed_digits_are_named_and_fail(tmp_path: Path) -> None:
    """A certified value that is off in the seventh digit is missed, in the table, in JSON and as exit status 1."""
    for name in MEASURED_FILES:
        (tmp_path / name).write_text(LINE)
    (tmp_path / "Norris.dat").write_text(LINE.replace("0.800000000000000", "0.800000080000000"))

    table, document = run_verify("--data", str(tmp_path)), run_verify("--json", "--data", str(tmp_path))

    checks = {check["data_set"]: check for check in json.loads(document.stdout)}
    assert checks["Norris"]["missed"] == ["exact"]
    assert checks["Norris"]["exact_digits"] == pytest.approx(7, abs=0.1)
    assert not checks["Norris"]["ok"]
    assert checks["Filip"]["ok"]
    assert "missed" in table.stdout
    assert table.returncode == document.returncode == 1


@pytest.mark.parametrize("missing", MEASURED_FILES)
def test_a_missing_file_is_named_with_its_source(tmp_path: Path, missing: str) -> None:
    """Before anything is fitted."""
    for name in set(MEASURED_FILES) - {missing}:
        (tmp_path / name).write_text(LINE)
    done = run_verify("--data", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: no {missing} in {tmp_path}; get it from https://www.itl.nist.gov/")


@pytest.mark.parametrize("text", ["", "y,x\n1,2\n", LINE.replace("y          x", "y  x1  x2"), LINE.replace("B", "C"), "é"])
def test_another_format_is_refused(tmp_path: Path, text: str) -> None:
    """No data set is made of half a file."""
    (tmp_path / "Norris.dat").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=r"Norris\.dat is not one of NIST's"):
        read(tmp_path / "Norris.dat")


def test_a_file_is_read_as_nist_writes_it(tmp_path: Path) -> None:
    """y comes before x, coefficients from the constant up."""
    (tmp_path / "Line.dat").write_text(LINE)
    found = read(tmp_path / "Line.dat")
    stderr, r2 = [0.324037034920393, 0.173205080756888], 0.988785046728972
    assert found == CertifiedSet("Line", [0, 1, 2, 3], [1, 3, 5, 8], [0.8, 2.3], stderr, r2)
    assert found.degree == 1


@pytest.mark.parametrize("data", wampler_sets(), ids=lambda data: data.name)
def test_wampler_by_formula_is_nists_own(nist: Path, data: CertifiedSet) -> None:
    """Points, certified coefficients, standard errors and R squared equal those of the file."""
    certified = read(nist / f"{data.name}.dat")
    assert data._replace(stderr=certified.stderr) == certified
    assert data.stderr == pytest.approx(certified.stderr, rel=1e-15)


def test_correct_digits_are_those_of_the_worst_value() -> None:
    """Between 0, also for no values at all, and the 15 that NIST gives."""
    assert correct_digits([1.0, 2.0], [1.0, 2.0]) == 15
    assert correct_digits([1.0, 2.002], [1.0, 2.0]) == pytest.approx(3)
    assert correct_digits([-5.0, 2.0], [1.0, 2.0]) == 0
    assert correct_digits(None, [1.0]) == 0


def test_a_device_that_torch_cannot_use_is_an_error() -> None:
    """And not a data set that missed."""
    with pytest.raises(DeviceError, match="torch cannot use cuda:99"):
        verify(wampler_sets(), "cuda:99")
