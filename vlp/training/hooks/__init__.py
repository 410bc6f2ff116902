"""What looks at a run from inside its loop."""
