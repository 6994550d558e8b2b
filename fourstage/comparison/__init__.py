"""Comparing runs: selecting, reading and pairing them, effects and findings."""
