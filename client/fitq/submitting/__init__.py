"""From batches of jobs to stored and enqueued chunks."""
