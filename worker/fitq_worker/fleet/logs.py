"""Where the worker's log lines go, which, and without which secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any

from fitq_shared.masking import remove_secrets, secrets_in, secrets_of
from fitq_shared.settings import Settings


class MaskingFormatter(logging.Formatter):
    """Writes lines without the secrets of the settings and the environment, whoever logs them, tracebacks included."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._secrets = [*secrets_of(settings.redis_url), *secrets_in()]

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        return remove_secrets(super().format(record), self._secrets)


def configure_logging(**_celery: Any) -> None:
    """Lines of fitq from INFO up, those of everything else from WARNING up, to stderr.

    Raises:
        SettingsError: those of the environment make no sense.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskingFormatter(Settings.from_environment()))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("fitq_worker").setLevel(logging.INFO)
