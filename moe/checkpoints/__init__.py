"""The command `python -m moe.checkpoints`, one module a subcommand."""
