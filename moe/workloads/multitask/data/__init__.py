"""Tables and synthetic rows for multi-task learning."""
