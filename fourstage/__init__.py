"""fourstage: where does the time of a multimodal model go, and what changes when you change something?"""

__version__ = "0.2.0"
