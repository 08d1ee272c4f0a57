"""Sweeps that are ready to run; `docs/sweeps.md` says what came of them."""
