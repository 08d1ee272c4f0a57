"""Sweeps ready to run; `docs/explanation/sweeps.md` has their results."""
