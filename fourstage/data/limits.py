"""How much memory one sample may take, decoded: checked before the memory is taken."""

from __future__ import annotations

from pathlib import Path

from fourstage.records.units import amount
from fourstage.stages import SampleError

MAX_SAMPLE_BYTES = 2 * 1024**3


def check_decoded_bytes(what: Path | str, found: int, limit: int) -> None:
    """Raise SampleError where `found` decoded bytes exceed `limit`."""
    if found > limit:
        raise SampleError(
            f"{what} takes {amount(found, 'bytes')} decoded, more than the limit of {amount(limit, 'bytes')}; "
            "raise dataset.max_sample_bytes if that is right"
        )
