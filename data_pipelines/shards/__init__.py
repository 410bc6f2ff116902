"""Which tars there are, what they hold, and any sample of them one read away."""
