"""Short scripts, one a use; run them as `python -m examples.NAME`."""
