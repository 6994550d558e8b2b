"""Bad input of every kind, generated from a seed, given to the real command: `python -m tests.faults`."""
