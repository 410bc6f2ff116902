"""Plans of epochs for a run: the training set embedded, what is alike found, the plan written and followed."""
