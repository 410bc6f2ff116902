"""One model on any number of devices, in any precision."""
