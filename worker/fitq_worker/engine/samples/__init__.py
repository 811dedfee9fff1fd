"""Samples: the sets of a batch, and what is left of them after the reduction."""
