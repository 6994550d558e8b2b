"""Stage 4 by transformers' loop with its static cache and `torch.compile`, as its own `generate()` options ask for it.

Prefill runs uncompiled, each decode step as one compiled call. One cache of fixed length stays for each batch size, so
that nothing is compiled again; a run compiles before its warm-up. Where a step would not be compiled it is an error.

    fourstage run engine=compiled
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fourstage.config.schema import Config, EngineSettings
from fourstage.config.values import SettingError
from fourstage.engines import eager
from fourstage.lazy import lazy
from fourstage.stages import Sampling, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")
transformers = lazy("transformers", "CompileConfig", "StaticCache")

BUCKET = 64  # rows to which a cache's length is rounded up
WARM_UP = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=6, stop="fixed")  # compile, record, replay


@dataclass(frozen=True)
class Settings(EngineSettings):
    """conf/engine/compiled.yaml."""

    name: str = "compiled"
    backend: Literal["inductor", "eager"] = "inductor"
    mode: Literal["reduce-overhead", "default", "max-autotune"] = "reduce-overhead"

    def check(self, config: Config) -> None:
        if config.num_beams > 1:
            raise SettingError(
                f"num_beams={config.num_beams}: engine={self.name} has no beam search; set num_beams=1 or engine=eager"
            )


class Engine(eager.Engine):
    """transformers' `generate()` with a static cache and compiled steps."""

    settings: Settings
    own_draws = True  # rounding differs, so that a draw may fall on another token

    def __init__(self, settings: EngineSettings):
        super().__init__(settings)
        self._caches: dict[int, tuple[int, Any]] = {}  # length and cache, by batch size
        self._model: Any = None
        self._slots = 0
        self._before: tuple[int, int] | None = None  # graphs and breaks of the process before this engine's

    def check(self, model: Any) -> None:
        if not getattr(model, "_can_compile_fullgraph", False):
            raise UserError(
                f"engine=compiled runs models whose transformers class supports a static cache; {type(model).__name__} "
                "does not: use engine=eager"
            )

    def prepare(self, model: Any, sampling: Sampling, batches: Sequence[int], prompts: Sequence[int]) -> None:
        longest = max(prompts, default=1)
        self._slots = max(self._slots, _rounded(longest + sampling.max_new_tokens))
        embedding = model.get_input_embeddings().weight
        for batch in batches:
            embeds = embedding.new_zeros(batch, longest, embedding.shape[1])
            mask = torch.ones(batch, longest, dtype=torch.long, device=embeds.device)
            try:
                for _ in range(2):
                    with torch.inference_mode():
                        self.generate(model, embeds, mask, WARM_UP, (), 0, _nothing)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise UserError(
                    f"engine=compiled: torch.compile cannot compile {type(model).__name__} here "
                    f"({str(error).strip().splitlines()[0]}); use engine=eager"
                ) from error

    def release(self) -> None:
        self._caches.clear()
        if self._model is not None and hasattr(self._model, "_compiled_call"):
            del self._model._compiled_call
            torch._dynamo.reset()  # frees the recorded graphs
        self._model = None

    @property
    def countable(self) -> bool:
        return False

    @property
    def report(self) -> Mapping[str, Any]:
        before, now = self._before or _counted(), _counted()
        return {
            "compiled": hasattr(self._model, "_compiled_call"),
            "backend": self.settings.backend,
            "mode": self.settings.mode if self.settings.backend == "inductor" else None,
            "graphs": now[0] - before[0],
            "graph_breaks": now[1] - before[1],
            "cache_bytes": sum(_nbytes(cache) for _, cache in self._caches.values()),
        }

    def options(self, model: Any, inputs_embeds: Tensor, config: Any) -> dict[str, Any]:
        self._before = self._before or _counted()
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # beyond the limit it would run uncompiled, in silence
        compile_config = transformers.CompileConfig(fullgraph=False, dynamic=False, backend=self.settings.backend)
        compile_config.mode = self.settings.mode if self.settings.backend == "inductor" else None
        compile_config._compile_all_devices = True
        config.compile_config = compile_config
        self._model = model
        return {"past_key_values": self._cache(model, inputs_embeds, config.max_new_tokens)}

    def _cache(self, model: Any, inputs_embeds: Tensor, new: int) -> Any:
        batch, rows, _ = inputs_embeds.shape
        self._slots = max(self._slots, _rounded(rows + new))
        slots, cache = self._caches.get(batch, (0, None))
        if slots < self._slots:
            cache = transformers.StaticCache(config=model.config, max_cache_len=self._slots)
            self._caches[batch] = (self._slots, cache)
        cache.reset()
        return cache


def _counted() -> tuple[int, int]:
    """Graphs that torch.compile made in this process so far, and where it had to break them."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _rounded(rows: int) -> int:
    return -(-rows // BUCKET) * BUCKET


def _nbytes(cache: Any) -> int:
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _nothing(at: float | None = None, /) -> None:
    pass
