"""Benchmarks: each prints what it measured, and ratios within one run where it compares."""
