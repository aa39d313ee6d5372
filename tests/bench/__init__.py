"""Tests of the benches' own pieces, and each bench once with tiny numbers."""
