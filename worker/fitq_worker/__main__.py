"""`python -m fitq_worker` is the command `fitq-worker`."""

from fitq_worker.cli import main

main()
