"""Faults put into runs on purpose: kills, and disks that are full."""
