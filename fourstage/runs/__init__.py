"""A run's life: prepared, measured, ended; sweeps of runs."""
