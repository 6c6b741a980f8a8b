"""Structured pruning: whole channels go, and every layer that depends on them follows."""
