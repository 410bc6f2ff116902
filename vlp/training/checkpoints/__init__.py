"""What a run leaves on disk to go on from: whole or absent, and given only to the run that wrote it."""
