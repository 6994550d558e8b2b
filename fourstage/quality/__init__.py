"""One file a quality metric: `score(output, reference) -> float`, and the metric's name is the module's."""
