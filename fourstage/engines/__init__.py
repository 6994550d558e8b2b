"""Stage 4: one file an engine, found by the name in `engine.name` (`plugins.py`).

An engine's file has `Settings`, its options, and `Engine`, made once for a loaded model. Only `generate` must be
written; an engine that captures or compiles ahead, or launches stage 3 its own way, overrides the rest too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fourstage.config.schema import EngineSettings
    from fourstage.stages import OnToken, Sampling


@dataclass(frozen=True)
class Vision:
    """What stage 3 runs, for an engine that launches it its own way."""

    run: Callable[[Tensor, tuple[int, ...]], tuple[Tensor, ...]]  # pixels, images per sample → features per sample
    tower: nn.Module
    count: Callable[[int], None]  # report runs of the tower that its hooks do not see


class Engine(ABC):
    """How a loaded model computes. It is made with its settings: `Engine(settings)`."""

    own_draws: ClassVar[bool] = True  # with one seed, sampling gives other tokens than the model's own generate()

    def __init__(self, settings: EngineSettings):
        self.settings = settings

    @abstractmethod
    def generate(
        self,
        model: Any,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        sampling: Sampling,
        eos_ids: tuple[int, ...],
        pad_id: int,
        on_token: OnToken,
    ) -> Tensor:
        """New token ids [batch, steps], int64, after embeddings [batch, rows, hidden].

        `model` is the language model, whose `forward()` takes `inputs_embeds`. Rows are padded on the left, where
        `attention_mask` [batch, rows] is 0. A sample that ended is filled with `pad_id`; with `stop="fixed"` nothing
        ends before `max_new_tokens`, and with `stop="natural"` a sample ends with one of `eos_ids`.

        The caller has the clock: call `on_token()` once for each step, as soon as the batch's next tokens are chosen.
        The first call ends the prefill. Call it for exactly as many steps as ids are returned. `on_token()` waits for
        the device; an engine that must not wait calls `on_token(at)` with the time at which the token was there, in
        seconds of `time.perf_counter()`, at the latest before it returns.
        """

    def check(self, model: Any) -> None:  # noqa: B027 (most have nothing to do)
        """Raise UserError where this engine cannot run the model. Called once, when the model is loaded."""

    def prepare(  # noqa: B027 (most have nothing to do)
        self, model: Any, sampling: Sampling, batches: Sequence[int], prompts: Sequence[int]
    ) -> None:
        """Capture or compile ahead of the measurement.

        `batches`: sizes of the batches to come; `prompts`: rows of their prompts with media, the most frequent first.
        """

    def prepare_encode(  # noqa: B027 (most have nothing to do)
        self, vision: Vision, pixel_values: Tensor, images_per_sample: tuple[int, ...]
    ) -> None:
        """Capture stage 3 for tensors of this shape ahead of the measurement."""

    def encode(self, vision: Vision, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Stage 3: features per sample, from pixels [images of all samples, 3, size, size]."""
        return vision.run(pixel_values, images_per_sample)

    def logits(self, model: Any, inputs_embeds: Tensor, attention_mask: Tensor, forced_ids: Tensor) -> Tensor | None:
        """Logits [batch, steps, vocabulary] from which each step chooses when the answer is `forced_ids`.

        None: the engine does not expose them; then its answers must equal the model's own to the last id.
        """
        return None

    def release(self) -> None:  # noqa: B027 (most have nothing to do)
        """Give back the memory of what was captured or cached. The engine may be used again, and captures again."""

    @property
    def countable(self) -> bool:
        """Whether torch's dispatcher sees every operation, so that an audit can count them."""
        return True

    @property
    def report(self) -> Mapping[str, Any]:
        """What ran, for the run's record."""
        return {}
