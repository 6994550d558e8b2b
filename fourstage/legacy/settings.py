"""The configuration that a result file states, under the names of our settings."""

from __future__ import annotations

import json
import re

from fourstage.legacy.keys import leaves, shown
from fourstage.legacy.layouts import ResultFile, Source

# names of ours for what configurations of such scripts call otherwise
SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "num_beams": "num_beams",
    "max_new_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "seed": "seed",
    "device": "device",
    "batch_size": "batch_size",
    "precision": "precision",
    "dtype": "precision",
    "torch_dtype": "precision",
    "prompt": "prompt",
    "query": "prompt",
    "dataset": "dataset.name",
    "dataset_name": "dataset.name",
    "model_path": "weights.path",
}

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16"}


def params_of(file: ResultFile, source: Source) -> dict[str, str]:
    """The configuration under our names; what we have no name for under `config.`"""
    others = {alias for other in file.sources if other is not source for alias in (*other.aliases, other.name)}
    own = {*source.aliases, source.name}
    params: dict[str, str] = {"model.name": source.name}
    tables = [file.config, *(value for key, value in file.config.items() if key in own and isinstance(value, dict))]
    for table in tables:
        own_values = {
            key: value for key, value in table.items() if not (isinstance(value, dict) and key in own | others)
        }
        for path, value in leaves(own_values, ""):
            text = shown(value if isinstance(value, str) else json.dumps(value), 6000)
            name = SETTINGS.get(path, f"config.{path}")
            if name == "precision":
                text = PRECISIONS.get(text.removeprefix("torch."), text)
            if name in params and params[name] != text and table is file.config:
                name = f"config.{path}"
            params[_param_name(name)] = text
    splits = {entry.shared.get("split") for entry in source.entries if isinstance(entry.shared.get("split"), str)}
    if len(splits) == 1:
        params.setdefault("dataset.split", shown(splits.pop(), 250))
    return params


def _param_name(name: str) -> str:
    """What MLflow takes as the name of a parameter."""
    return re.sub(r"[^\w.\-/ :]", "_", name, flags=re.ASCII)[:250].strip("/. ") or "config"
