"""What is fitted: the job, its limits and rules, and the frames that carry jobs, results and traces."""
