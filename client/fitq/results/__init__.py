"""From stored frames to batches, tables and files."""
