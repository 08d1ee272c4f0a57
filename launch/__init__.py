"""Sweeps of runs, and what a run would need of machines that are not here."""
