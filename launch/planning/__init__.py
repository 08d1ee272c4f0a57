"""Plans: a train step compiled ahead of time, and what it would cost."""
