"""Throughput of each part on this machine, compared in one run with what it replaces."""
