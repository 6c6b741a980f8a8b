"""Measuring: quality on real samples, latency in worker processes, and what the machine is."""
