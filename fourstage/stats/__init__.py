"""Statistics on arrays, without knowledge of models."""
