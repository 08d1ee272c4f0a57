"""Plans: a train step compiled ahead of time, with its memory and time."""
