"""What a run would need of machines that are not here."""
