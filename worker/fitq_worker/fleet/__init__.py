"""The processes of one machine: its devices, a worker on each, and who looks after them."""
