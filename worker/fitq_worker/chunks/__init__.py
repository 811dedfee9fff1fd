"""What a worker process does: it claims chunks, fits them and commits the results."""
