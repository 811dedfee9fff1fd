"""What a worker's log does not have."""

from __future__ import annotations

import logging
import sys

import pytest

from fitq_shared.settings import Settings
from fitq_worker.fleet.logs import MaskingFormatter


def test_lines_and_tracebacks_lose_secrets_whoever_logs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery and kombu write what they are given, arguments and exceptions included."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "keykeykey")
    formatter = MaskingFormatter(Settings(redis_url="redis://me:ge%2Fheim@host"))
    try:
        raise ValueError("no such thing: 'ge/heim'")
    except ValueError:
        problem = sys.exc_info()
    record = logging.LogRecord("kombu", logging.ERROR, "", 1, "%s keykeykey", ("redis://me:ge%2fheim@host",), problem)
    text = formatter.format(record)
    assert "heim" not in text
    assert "keykeykey" not in text
    assert "redis://me:***@host" in text
    assert "ValueError: no such thing: '***'" in text
