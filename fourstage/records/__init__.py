"""Records of samples as a table, and figures computed from them."""
