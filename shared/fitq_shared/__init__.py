"""What the client and the worker agree on: jobs, frames, keys, the store, broker settings."""

__version__ = "0.1.0"
