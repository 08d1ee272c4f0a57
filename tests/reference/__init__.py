"""Slow, obvious NumPy oracles; they import nothing of what they check."""
