"""The load, once for all tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.faults.load import Work, make_works


@pytest.fixture(scope="session")
def works(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Work]:
    """Files of jobs with their results."""
    return make_works(tmp_path_factory.mktemp("load"))
