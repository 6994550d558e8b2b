"""Datasets and their media: what stage 1 reads."""
