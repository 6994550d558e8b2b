"""The name of a run: what distinguishes it from the other runs of a store.

default_run_name(config)                # "videollava-demo-bf16-T0.2"
name_of_varied({"seed": "1"})           # "seed=1"
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from fourstage import plugins
from fourstage.config.flat import flatten, plain
from fourstage.config.schema import Config, PretrainedWeights
from fourstage.config.values import shown
from fourstage.text import one_line

NAMED = ("model", "weights", "precision", "temperature", "generation")  # what every name says
# what a name does not say of a dataset: it changes no figure, or is long
NEVER_SAID = ("dataset.cache", "dataset.hash", "dataset.question", "dataset.max_sample_bytes")
MOST_OF_A_VALUE, MOST_OF_A_NAME = 24, 120  # letters


def default_run_name(config: Config, varied: Mapping[str, str] | None = None) -> str:
    """`videollava-demo-bf16-T0.2-dsec-batch_size=4`: what tells the runs of a store apart.

    With what a sweep varied beyond model, weights, precision and sampling; of a run by itself, with its checkpoint,
    its dataset and whatever else is not as composed by default.
    """
    how = "greedy" if config.temperature == 0 else f"T{config.temperature:g}"
    how += f"-fixed{config.max_new_tokens}" if config.stop == "fixed" else ""
    name = f"{config.model.name}-{config.weights.name}-{config.precision}-{how}"
    flat = flatten(asdict(config))
    if varied:
        as_used = {key: _in_a_name(flat[key]) if key in flat else text for key, text in varied.items()}
        return _cut("-".join([name, *_said({key: text for key, text in as_used.items() if key not in NAMED})]))
    if isinstance(config.weights, PretrainedWeights) and config.weights.path:
        name += f"-{_short(Path(config.weights.path).name)}"
    if label := config.dataset.label:
        name += f"-{_short(label)}"
    unsaid = _unsaid(config) | ({"max_new_tokens": config.max_new_tokens} if config.stop == "fixed" else {})
    other = {key: _in_a_name(flat[key]) for key, value in unsaid.items() if key in flat and flat[key] != value}
    words = [_short(other.pop(key)) for key in ("protocol.name", "engine.name") if key in other]
    return _cut("-".join([name, *words, *_said(other)]))


def _unsaid(config: Config) -> dict[str, Any]:
    """What a name says only where it is another: conf/'s own values."""
    of_group = {
        group: {
            f"{group}.{item.name}": item.default
            for item in fields(getattr(config, group))
            if item.name != "name" and item.default is not MISSING
        }
        for group in plugins.CHOSEN
    }
    found = {"protocol.name": "standard", "engine.name": "eager", "device": "auto", **of_group["engine"],
             "batch_size": 1, "cache": "none", "num_beams": 1, "top_p": 1.0, "top_k": 50, "max_new_tokens": 512,
             "seed": 0, "prompt": None, **of_group["model"], "weights.seed": 0, "weights.size": "7b",
             "weights.vision_tower": None, **of_group["dataset"]}  # fmt: skip
    return {key: plain(value) for key, value in found.items() if key not in NEVER_SAID}


def name_of_varied(varied: Mapping[str, str]) -> str:
    """`seed=1-batch_size=4`: what a sweep varied; "" where that is nothing."""
    return _cut("-".join(_said(varied)))


def _said(settings: Mapping[str, str]) -> list[str]:
    """`frames=4`; the whole key where two settings end alike: `seed=1`, `dataset.seed=2`."""
    ends = [key.rpartition(".")[2] for key in settings]
    return [
        f"{key if ends.count(end) > 1 else end}={_short(text)}"
        for end, (key, text) in zip(ends, settings.items(), strict=True)
    ]


def _short(text: str) -> str:
    """A value in a name: one line, cut where it is long, with four digits that tell it from others cut there."""
    shown = one_line(text)
    if len(shown) <= MOST_OF_A_VALUE:
        return shown
    return f"{shown[: MOST_OF_A_VALUE - 5]}…{_digits(text)}"


def _cut(name: str) -> str:
    return name if len(name) <= MOST_OF_A_NAME else f"{name[: MOST_OF_A_NAME - 5]}…{_digits(name)}"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:4]


def _in_a_name(value: Any) -> str:
    """A value as one writes it: 1 for 1.0, true, null."""
    if value is None or isinstance(value, bool):
        return shown(value)
    if isinstance(value, list | tuple):
        return one_line(",".join(map(str, value)))
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))
