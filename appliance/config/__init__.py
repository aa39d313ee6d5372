"""The configuration file: a typed model and a loader that reports every error at once."""
