"""What a run costs before anyone pays for it: closed forms, and the simulation and counting that check them."""
