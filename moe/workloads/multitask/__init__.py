"""Multi-task learning: tables, models, objectives, balancing."""
