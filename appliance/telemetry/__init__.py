"""Logging and metrics: what people and machines read of the running process."""
