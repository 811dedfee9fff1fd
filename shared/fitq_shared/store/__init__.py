"""What Redis and result files hold. Nothing outside this package speaks to Redis."""
