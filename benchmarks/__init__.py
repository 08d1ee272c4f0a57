"""Measurements, as ratios to the dense limit."""
