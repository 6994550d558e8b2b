"""Dataset formats: one file a format, found by name. A file has `Settings` and `read(settings, root)`.

`scenes.py` draws the pictures of the demo dataset.
"""
