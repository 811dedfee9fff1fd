"""Polynomial regressions whose answers are certified: NIST's Statistical Reference Datasets (StRD).

Certified values are NIST's, computed with 500 digits and given with 15:
https://www.itl.nist.gov/div898/strd/lls/lls.shtml. Wampler1 to Wampler5 (R. H. Wampler, Journal of the American
Statistical Association 65, 1970) follow from a formula; the other data sets are read from NIST's files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fitq_shared.errors import FileError

#: The polynomial data sets that no formula gives, with an intercept and one x; a file `NAME.dat` has each.
MEASURED = ("Norris", "Pontius", "Filip")

_SOURCE_URL = "https://www.itl.nist.gov/div898/strd/lls/data/LINKS/DATA"
_WAMPLER_X = range(21)
#: What Wampler3 adds to the polynomial; orthogonal to every polynomial of degree 5 on 0..20.
_WAMPLER_DELTA = (
    759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048,
    2048, -2048, 1838, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 759,
)  # fmt: skip
_WAMPLER3_STDERR = (
    2152.32624678170, 2363.55173469681, 779.343524331583, 101.475507550350, 5.64566512170752, 0.112324854679312,
)  # fmt: skip
#: Multiple of the delta, and certified R squared.
_WAMPLER_DISTURBED = {
    "Wampler3": (1, 0.999995559025820),
    "Wampler4": (100, 0.957478440825662),
    "Wampler5": (10_000, 0.224668921574940e-02),
}


class CertifiedSet(NamedTuple):
    """A data set and its certified fit; coefficients and standard errors from the lowest power of x up."""

    name: str
    x: list[float]
    y: list[float]
    coefficients: list[float]
    #: All 0 where the polynomial goes through every point.
    stderr: list[float]
    r2: float

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1


def certified_sets(folder: Path | None = None) -> list[CertifiedSet]:
    """Wampler1 to Wampler5 and, given NIST's files in `folder`, the measured data sets.

    Raises:
        FileError: a file is missing or is not in NIST's format.
    """
    return [*wampler_sets(), *(read(folder / f"{name}.dat") for name in MEASURED if folder is not None)]


def wampler_sets() -> list[CertifiedSet]:
    """Polynomials of degree 5 on x = 0..20: two that go through every point, three with ever larger residuals."""
    whole = [sum(x**k for k in range(6)) for x in _WAMPLER_X]
    decimal = [sum(x**k * 10 ** (5 - k) for k in range(6)) / 10**5 for x in _WAMPLER_X]
    decimals = [1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001]
    exact = [_wampler("Wampler1", whole, [1.0] * 6, 0, 1.0), _wampler("Wampler2", decimal, decimals, 0, 1.0)]
    return exact + [_wampler(name, whole, [1.0] * 6, *rest) for name, rest in _WAMPLER_DISTURBED.items()]


def read(path: Path) -> CertifiedSet:
    """A data set from a file of NIST's, named after it.

    Raises:
        FileError: there is no such file, or it is in another format.
    """
    try:
        return _parsed(path.stem, path.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise FileError(f"no {path.name} in {path.parent}; get it from {_SOURCE_URL}/{path.name}") from None
    except (OSError, ValueError) as error:
        source = f"{_SOURCE_URL}/{path.name}"
        raise FileError(f"{path} is not one of NIST's regressions on one x ({error}); get it from {source}") from None


def _parsed(name: str, text: str) -> CertifiedSet:
    certified = [(float(value), float(error)) for value, error in re.findall(r"^ *B\d+ +(\S+) +(\S+)", text, re.M)]
    r2 = float(_after(r"R-Squared +", text).split(maxsplit=1)[0])
    points = [(float(x), float(y)) for y, x in map(str.split, _after(r"^Data: +y +x *\n", text).strip().splitlines())]
    if not certified:
        raise ValueError("no lines of certified values")
    coefficients, stderr = ([pair[side] for pair in certified] for side in (0, 1))
    x, y = ([point[side] for point in points] for side in (0, 1))
    return CertifiedSet(name, x, y, coefficients, stderr, r2)


def _wampler(name: str, values: Sequence[float], coefficients: list[float], multiple: int, r2: float) -> CertifiedSet:
    y = [float(value + multiple * delta) for value, delta in zip(values, _WAMPLER_DELTA, strict=True)]
    stderr = [multiple * error for error in _WAMPLER3_STDERR]
    return CertifiedSet(name, [float(x) for x in _WAMPLER_X], y, coefficients, stderr, r2)


def _after(pattern: str, text: str) -> str:
    """What follows the first match.

    Raises:
        ValueError: there is none.
    """
    parts = re.split(pattern, text, maxsplit=1, flags=re.M)
    if len(parts) < 2 or not parts[1].strip():
        raise ValueError(f"nothing follows {pattern!r}")
    return parts[1]
