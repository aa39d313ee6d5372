"""Tests of the flashblock log."""
