"""Stage 4 by transformers' own loop: `generate()` on embeddings that are already there.

It leaves out everything before the embeddings: no vision tower runs here. Prefill ends with the first call of
`on_token`, each decode step with the next.

    engine = Engine(Settings())
    ids = engine.generate(model, embeds, mask, sampling, eos_ids=(2,), pad_id=0, on_token=lambda: times.append(now()))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fourstage import engines
from fourstage.config.schema import EngineSettings
from fourstage.stages import MeasurementError, OnToken, Sampling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settings(EngineSettings):
    """The engine has no settings beyond its name."""

    name: str = "eager"


class Engine(engines.Engine):
    """transformers' `generate()`."""

    own_draws = False

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
        """New token ids [batch, steps] after embeddings [batch, rows, hidden], left-padded where the mask is 0.

        `on_token` is called once the batch's next token is chosen, before the loop asks whether to stop.
        Raises MeasurementError where `stop="fixed"` and another number of tokens came out.
        """
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        class Tick(StoppingCriteria):  # the loop's own place for code after each token, with and without beams
            def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
                on_token()
                return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        config = generation_config(sampling, eos_ids, pad_id)
        ids: Tensor = model.generate(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([Tick()]),
            **self.options(model, inputs_embeds, config),
        )
        if sampling.stop == "fixed" and ids.shape[1] != sampling.max_new_tokens:
            raise MeasurementError(
                f"asked for exactly {sampling.max_new_tokens} tokens (stop=fixed) and {ids.shape[1]} were generated"
            )
        return ids

    def logits(self, model: Any, inputs_embeds: Tensor, attention_mask: Tensor, forced_ids: Tensor) -> Tensor:
        """Logits [batch, steps, vocabulary] fp32 on the host, from the same loop, whose choices are `forced_ids`."""
        import torch
        from transformers import LogitsProcessor, LogitsProcessorList

        found: list[Tensor] = []

        class Force(LogitsProcessor):
            def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
                chosen = forced_ids[:, len(found), None].to(scores.device)
                found.append(scores.float().cpu())
                return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

        greedy = Sampling(0, 1, 0, max_new_tokens=forced_ids.shape[1], stop="fixed")
        config = generation_config(greedy, (), pad_id=0)
        with torch.inference_mode():
            model.generate(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([Force()]),
                **self.options(model, inputs_embeds, config),
            )
        return torch.stack(found, dim=1)

    def options(self, model: Any, inputs_embeds: Tensor, config: Any) -> dict[str, Any]:
        """Further arguments of `generate()`; may change its `config`, a GenerationConfig. Here none."""
        return {}


def generation_config(sampling: Sampling, eos_ids: tuple[int, ...], pad_id: int) -> Any:
    """`sampling` in transformers' words. Nothing is left to a checkpoint's own generation defaults."""
    from transformers import GenerationConfig

    settings: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "num_beams": sampling.num_beams,
        "do_sample": not sampling.greedy,
        "use_cache": True,
        "pad_token_id": pad_id,
    }
    if not sampling.greedy:
        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    if sampling.stop == "natural":
        settings["eos_token_id"] = list(eos_ids)
    else:
        settings["min_new_tokens"] = sampling.max_new_tokens
    return GenerationConfig(**settings)
