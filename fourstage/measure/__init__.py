"""Measuring: the loop, its clock, protocol, caches and the machine's state."""
