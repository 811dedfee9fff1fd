"""Where the worker's log lines go, and which."""

from __future__ import annotations

import logging
import sys
from typing import Any


def configure_logging(**_celery: Any) -> None:
    """Lines of fitq from INFO up, those of everything else from WARNING up, to stderr."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger("fitq_worker").setLevel(logging.INFO)
