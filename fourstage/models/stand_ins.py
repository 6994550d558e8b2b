"""The stand-ins of `weights=demo`: small checkpoints in the published layouts, trained on demo scenes and shipped.

Each is a folder of `stand_ins/`, named as its model, with a model card. Left out: how they are trained
(`fourstage/training`).

    shipped("eventgpt")                      # the weights of the checkpoint, as if it had been named by a path
"""

from __future__ import annotations

from pathlib import Path

from fourstage.config.schema import PretrainedWeights, Weights

FOLDER = Path(__file__).with_name("stand_ins")


def shipped(model: str) -> PretrainedWeights | None:
    """The shipped checkpoint of a model; None for one that has none, whose `weights=demo` has random values."""
    folder = FOLDER / model
    return PretrainedWeights("pretrained", str(folder), None) if (folder / "config.json").is_file() else None


def resolved(weights: Weights, model: str) -> Weights:
    """`weights=demo` as the shipped checkpoint, where there is one; other weights as they are."""
    return (shipped(model) if weights.name == "demo" else None) or weights


def source_of(weights: Weights, model: str, source: str) -> str:
    """What a run records of where its parameters came from: `source`, or the stand-in's name."""
    return f"stand-in of {model}, trained on demo scenes" if weights.name == "demo" else source
