"""Where the trials of a sweep run."""
