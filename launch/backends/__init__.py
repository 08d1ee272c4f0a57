"""Backends that run the trials of a sweep."""
