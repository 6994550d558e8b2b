"""Settings: their schema, and Hydra's composition of them."""
