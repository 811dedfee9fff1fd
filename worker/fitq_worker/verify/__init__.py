"""Fits with certified answers, and how many digits agree."""
