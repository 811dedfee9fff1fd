"""fitq from Python: submit bulk polynomial fits to a queue and collect their results.

import fitq

submission = fitq.Client().submit([fitq.FitJob(x=[0, 1, 2], y=[1, 3, 5], degree=1)])
submission.wait()
table = submission.results()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fitq_shared import __version__ as __version__
from fitq_shared import errors

if TYPE_CHECKING:
    from fitq.client import Client
    from fitq.evaluation.predictions import p_values, predict, residuals
    from fitq.submission import Submission
    from fitq_shared.jobs.job import FitJob

__all__ = ["Client", "FitJob", "Submission", "errors", "p_values", "predict", "residuals"]

#: Where the names live that would make `import fitq` heavy.
_HOMES = {
    "Client": "fitq.client",
    "FitJob": "fitq_shared.jobs.job",
    "Submission": "fitq.submission",
    "p_values": "fitq.evaluation.predictions",
    "predict": "fitq.evaluation.predictions",
    "residuals": "fitq.evaluation.predictions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fitq' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
