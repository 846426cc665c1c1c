"""Benchmarks: run by hand, one documented command each."""
