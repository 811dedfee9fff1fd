"""The outcome: verdicts, and the frames of results."""
