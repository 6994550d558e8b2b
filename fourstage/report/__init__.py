"""The layout of a comparison and its renderers."""
