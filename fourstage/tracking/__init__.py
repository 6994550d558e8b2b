"""Everything about MLflow: writing runs, reading them, delivering what was not taken."""
