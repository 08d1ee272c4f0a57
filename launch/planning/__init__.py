"""Plans: a step compiled for machines that are not here, and its cost."""
