"""How ranks share their negatives: one strategy a file, and the text that names one."""
