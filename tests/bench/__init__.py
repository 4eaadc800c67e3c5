"""Benchmarks: each prints a table and writes its rows as JSON below build/bench."""
