"""Records for tests: times that fit together, from the parts of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fourstage.stages import SampleRecord


def timed(
    key: str = "a",
    load: float = 0.1,
    preprocess: float = 0.2,
    encode: float = 0.3,
    prefill: float = 0.5,
    token_s: Sequence[float] = (0.1, 0.3),
    tail: float = 0.0,
    **more: Any,
) -> SampleRecord:
    """A successful record: decode, total, TTFT and output tokens follow from the parts (seconds).

    `tail` is the time after the last token; `more` are fields of the record, in place of what follows or of
    constants.
    """
    decode = prefill + sum(token_s) + tail
    values: dict[str, Any] = {
        "key": key,
        "sample_id": key,
        "position": 0,
        "load_s": load,
        "preprocess_s": preprocess,
        "encode_s": encode,
        "decode_s": decode,
        "total_s": load + preprocess + encode + decode,
        "prefill_s": prefill,
        "ttft_s": load + preprocess + encode + prefill,
        "token_s": tuple(token_s),
        "text_tokens": 40,
        "visual_tokens": 577,
        "output_tokens": len(token_s) + 1,
        "source": "png",
        "images": 5,
        "peak_memory_bytes": 2**30,
    }
    return SampleRecord(**values | more)
