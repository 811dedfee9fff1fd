import time

from fitq import Client, FitJob

jobs = [FitJob(id=f"line-{n}", x=[0, 1, 2, 3], y=[n, n + 1, n + 2, n + 3], degree=1) for n in range(1000)]
submission = Client().submit(jobs)
while not (status := submission.status()).finished:
    print(status.done_jobs, "of", status.jobs, status.statuses)
    time.sleep(0.5)
print(submission.results().select(["id", "status", "coefficients", "gap"]).slice(0, 5).to_pylist())
