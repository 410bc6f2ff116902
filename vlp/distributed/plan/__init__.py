"""The cost of a run, predicted: closed forms, and the simulation and counting that check them."""
