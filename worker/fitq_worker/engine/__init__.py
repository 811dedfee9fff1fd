"""The engine: many polynomial fits as one tensor program. It knows nothing of queues."""

from fitq_worker.engine.fitting import Fitted, fit
from fitq_worker.engine.warming import build_kernels, warm_up

__all__ = ["Fitted", "build_kernels", "fit", "warm_up"]
