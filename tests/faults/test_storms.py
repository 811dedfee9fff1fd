"""Storms of faults over a server, workers and clients: nothing is lost, doubled, different or left over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import Work
from tests.faults.soak import run_storm

if TYPE_CHECKING:
    from tests.conftest import Server

FAULTS = 8


@pytest.mark.parametrize("seed", [1])
def test_a_storm_costs_nothing_but_time(server: Server, works: Sequence[Work], tmp_path: Path, seed: int) -> None:
    """`make soak` goes on with other seeds."""
    totals, findings, names = run_storm(server.binary, tmp_path, works, seed, FAULTS)
    assert findings == [], f"seed {seed}: {', '.join(names)}"
    assert (totals.faults, totals.clean) == (FAULTS, True)
    assert totals.jobs > 0
