"""Slow clients live and dead ones are found, in seconds; `bench.liveness` does it in earnest."""
