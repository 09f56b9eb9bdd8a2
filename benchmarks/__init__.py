"""Measurements: each module is a command, run from the repository's root."""
