"""How fast a token can be: the bytes of the model's weights, through the fastest memory that is sold."""

from __future__ import annotations

import re

from fourstage.legacy.reader import LegacyRun
from fourstage.legacy.samples import FileFacts
from fourstage.stages import SampleRecord

# bytes per second of the fastest memory that a device on sale has: HBM3e of NVIDIA's B200 and AMD's MI355X
FASTEST_BYTES_PER_S = 8e12

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "8bit": 1.0, "int4": 0.5, "4bit": 0.5, "nf4": 0.5}

FEWEST_BITS = ("load_in_4bit", "load_in_8bit")

BILLIONS = {"eventgpt": 7.0, "videollava": 7.0}  # of parameters, where the name does not say; the published models

SIZE = re.compile(r"(?<![\d.a-z])(\d{1,3}(?:\.\d+)?)\s*b(?![a-z])", re.IGNORECASE)


def weights_of(run: LegacyRun) -> tuple[float, float, str]:
    """Billions of parameters, bytes of each, and why that is not known."""
    params = run.params
    text = " ".join((run.model, *(value for key, value in params.items() if key.endswith(("path", "model")))))
    named = SIZE.search(text.replace("-", " ").replace("_", " "))
    billions = float(named[1]) if named else BILLIONS.get(run.model, 0.0)
    if not billions:
        return 0.0, 0.0, f"how many parameters {run.model} has is not known: its name has no size such as 7b"
    if params.get("batch_size", "1") != "1":
        return 0.0, 0.0, "a batch reads the weights once for all of its samples"
    precision = params.get("precision", "")
    bits = [key for key in FEWEST_BITS if params.get(f"config.{key}") == "true"]
    if bits:
        precision = bits[0].removeprefix("load_in_")
    if precision and precision not in BYTES:
        return 0.0, 0.0, f"how many bytes a parameter has as {precision} is not known"
    return billions, BYTES.get(precision, 2.0), ""


def seconds_per_token(record: SampleRecord, facts: FileFacts) -> float | None:
    """Seconds of a token, at the most: what else is in the last stage makes it longer."""
    if record.output_tokens is None or record.output_tokens < 2 or not facts.stage_s:
        return None
    # where prefill is apart, it made the first token
    return facts.stage_s[-1] / (record.output_tokens - (len(facts.stage_s) == 5))
