"""Which tars there are, what is in them, and any sample of them one read away."""
