"""Sweeps of runs, and plans of runs on machines you do not have."""
