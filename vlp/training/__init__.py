"""The optimizer step: gradients, schedules, checkpoints, and the loop that joins them."""
