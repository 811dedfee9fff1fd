"""The worker's half of fitq: Celery processes that fit chunks, one for each device, and what looks after them."""
