"""The engine: many polynomial fits as one tensor program. It knows nothing of queues."""

from fitq_worker.engine.fitting import Fitted, fit, warm_up

__all__ = ["Fitted", "fit", "warm_up"]
