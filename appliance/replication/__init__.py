"""Replication: one log on several hosts, by links that follow each other and votes that are counted."""
