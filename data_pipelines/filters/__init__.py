"""What makes a sample unfit, one reason a file."""
