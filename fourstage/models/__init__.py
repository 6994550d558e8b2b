"""Models: one file a model (`eventgpt.py`, `videollava.py`), found by name, and what they share.

A model's file has `Settings` and `Model`. `base.py` has the four stages around any model; `llava_family.py` and
`frames.py` what several models have in common; `checkpoint_*.py` and `reading.py` read a checkpoint's files;
`building.py` puts parameters onto the device; `load.py` and `loaded.py` make and keep pipelines.
"""
