"""Stage 4: one file an engine, found by the name in `engine.name` (`plugins.py`).

An engine's file has `Settings`, its options, and `Engine`, made once for a loaded model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from fourstage.stages import Sampling


class Engine(Protocol):
    """Generates token ids from embeddings. It is made with its settings: `Engine(settings)`."""

    def generate(
        self,
        model: Any,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        sampling: Sampling,
        eos_ids: tuple[int, ...],
        pad_id: int,
        on_token: Callable[[], None],
    ) -> Tensor:
        """New token ids [batch, steps], int64, after embeddings [batch, rows, hidden].

        `model` is the language model, whose `forward()` takes `inputs_embeds`. Rows are padded on the left, where
        `attention_mask` [batch, rows] is 0. A sample that ended is filled with `pad_id`; with `stop="fixed"` nothing
        ends before `max_new_tokens`, and with `stop="natural"` a sample ends with one of `eos_ids`.

        The caller has the clock: call `on_token()` once for each step, as soon as the batch's next tokens are chosen.
        The first call ends the prefill. Call it for exactly as many steps as ids are returned.
        """
        ...
