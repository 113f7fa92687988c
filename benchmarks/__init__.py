"""Measures the chain, its limit and its peers side by side: ``python -m benchmarks``."""
