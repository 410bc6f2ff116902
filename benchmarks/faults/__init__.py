"""Faults of its users' lives, at random moments: what was lost, mixed, believed or wrongly blamed. All aim at 0."""
