"""Everything as captured CUDA graphs: stage 4 for LLaMA-family language models, stage 3 for any model.

`captured.py` has the graphs, `llama.py` the decoder, `kernels.py` its Triton kernels; docs/engines.md explains them.
Without CUDA the same mathematics runs uncaptured. What ran is in `report`. It leaves out beams.

    engine = Engine(Settings())
    engine.check(model)                                              # UserError for another architecture
    engine.prepare(model, sampling, batches=(1,), prompts=(646,))    # captures
    ids = engine.generate(model, embeds, mask, sampling, eos_ids=(2,), pad_id=0, on_token=watch.tick)
    engine.release()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from fourstage import engines
from fourstage.config.schema import Config, EngineSettings
from fourstage.config.values import SettingError
from fourstage.engines import Vision
from fourstage.lazy import lazy
from fourstage.stages import OnToken, Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from fourstage.engines import captured
    from fourstage.engines.captured import CapturedCall, CapturedDecoder
else:
    captured = lazy("fourstage.engines.captured")

MOST_PREFILLS = 32  # prompt lengths whose prefill is captured; another length is launched kernel by kernel


@dataclass(frozen=True)
class Settings(EngineSettings):
    """conf/engine/graph.yaml."""

    name: str = "graph"
    kernels: Literal["auto", "triton", "torch"] = "auto"

    def check(self, config: Config) -> None:
        if config.num_beams > 1:
            raise SettingError(
                f"num_beams={config.num_beams}: engine={self.name} has no beam search; set num_beams=1 or engine=eager"
            )
        if config.precision == "int4":
            raise SettingError(f"precision=int4: engine={self.name} runs int8 and more bits; set engine=eager|compiled")


class Engine(engines.Engine):
    """Captured graphs of one loaded model."""

    settings: Settings

    def __init__(self, settings: EngineSettings):
        super().__init__(settings)
        self._decoder: CapturedDecoder | None = None
        self._vision: CapturedCall | None = None
        self._counted = 0  # replayed calls of the tower that were reported

    def check(self, model: Any) -> None:
        self._decoder_of(model)

    def prepare(self, model: Any, sampling: Sampling, batches: Sequence[int], prompts: Sequence[int]) -> None:
        decoder, lengths = self._decoder_of(model), tuple(dict.fromkeys(prompts))
        slots = max(lengths, default=1) + sampling.max_new_tokens
        for batch in batches:
            # a batch of several lengths is padded, and its prefill is launched kernel by kernel
            unpadded = lengths[:MOST_PREFILLS] if batch == 1 or len(lengths) == 1 else ()
            decoder.prepare(batch, slots, sampling, unpadded)

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
        decoder = self._decoder_of(model)
        return decoder.generate(inputs_embeds, attention_mask, sampling, eos_ids, pad_id, on_token)

    def prepare_encode(self, vision: Vision, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> None:
        self.encode(vision, pixel_values, images_per_sample)

    def encode(self, vision: Vision, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        if self._vision is None:
            self._vision = captured.CapturedCall(vision.run, vision.tower)
        features = self._vision(pixel_values, images_per_sample)
        vision.count(self._vision.unseen_calls - self._counted)
        self._counted = self._vision.unseen_calls
        return features

    def logits(self, model: Any, inputs_embeds: Tensor, attention_mask: Tensor, forced_ids: Tensor) -> Tensor:
        return self._decoder_of(model).logits(inputs_embeds, attention_mask, forced_ids)

    def release(self) -> None:
        for held in (self._decoder, self._vision):
            if held is not None:
                held.close()

    @property
    def countable(self) -> bool:
        return not (self._decoder and self._decoder.report.captured)

    @property
    def report(self) -> Mapping[str, Any]:
        decoder = asdict(self._decoder.report) if self._decoder else {}
        vision = {
            "encode_captured": self._vision.captures > 0,
            "encode_fused_layers": self._vision.fused_layers,
            "encode_graph_pool_bytes": self._vision.graph_pool_bytes,
        } if self._vision else {}  # fmt: skip
        return decoder | vision

    def _decoder_of(self, model: Any) -> CapturedDecoder:
        """The model's decoder, made at the first call: an engine belongs to one model."""
        if self._decoder is None:
            self._decoder = captured.CapturedDecoder(model, kernels=self.settings.kernels)
        return self._decoder
