"""Operations that the stages really do on one sample, counted by torch, against those that its shapes ask for.

Matrix products and convolutions are counted exactly. Attention is left out on both sides: torch's FlopCounterMode does
not know every kernel of it, and counts the whole square where a causal mask leaves half.

    found = count_operations(pipeline, item)
    found.faults      # ("encode does 53,600,000 operations, its shapes ask for 26,800,000 (2.00 times)",)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fourstage.measure.plan import Planned
from fourstage.stages import Sampling
from fourstage.trust.roofline import attention_products, decode_step_cost, encode_cost, prefill_cost

PRODUCTS = ("aten.mm", "aten.addmm", "aten._addmm_activation", "aten.convolution", "aten._convolution")  # no attention


@dataclass(frozen=True)
class Operations:
    """What was found."""

    counted: int = 0  # of encode, prefill and a decode step
    faults: tuple[str, ...] = ()
    why_not: str = "no sample could be counted"


def count_operations(pipeline: Any, item: Planned) -> Operations:
    """Count one sample's encode, prefill and first decode step.

    The second answer is one step longer: what it does more is that step.
    """
    try:
        shapes = pipeline.shapes()
    except (TypeError, AttributeError) as error:  # somebody's own model, whose parts are not known here
        return Operations(why_not=f"the model's shapes are not known: {error}")
    engine = getattr(pipeline, "engine", None)
    if engine is not None and not engine.countable:
        return Operations(why_not=f"engine={engine.settings.name} runs graphs, whose operations torch does not count")
    if getattr(getattr(pipeline, "facts", None), "quantisation", "none") == "int4":
        return Operations(why_not="precision=int4 runs a kernel of its own, whose operations torch does not count")
    media = pipeline.load(item.sample)
    inputs = pipeline.preprocess([media], [item.question])
    found, features = counted(lambda: pipeline.encode(inputs))
    real = {"encode": found}

    def decode(tokens: int) -> tuple[int, Any]:
        greedy = Sampling(0, 1, 0, max_new_tokens=tokens, stop="fixed")
        return counted(lambda: pipeline.decode(inputs, features, greedy, _nothing))

    real["prefill"], generation = decode(1)
    real["decode step"] = decode(2)[0] - real["prefill"]
    rows, vision, language = generation.text_tokens[0] + generation.visual_tokens[0], shapes.vision, shapes.language
    images = len(media.images)
    # every operation is half a multiply-add, as in roofline.py
    of_encode = 2 * images * vision.layers * 2 * vision.tokens**2 * vision.hidden
    of_prefill = 2 * language.layers * attention_products(language, rows * (rows + 1) // 2)
    of_step = 2 * language.layers * attention_products(language, rows + 1)
    asked = {
        "encode": encode_cost(shapes, images).flops - of_encode,
        "prefill": prefill_cost(shapes, rows).flops - of_prefill,
        "decode step": decode_step_cost(shapes, rows).flops - of_step,
    }
    return Operations(
        len(asked),
        tuple(
            f"{item.sample.key}: {name} does {real[name]:,} operations, its shapes ask for {asked[name]:,} "
            f"({real[name] / asked[name]:.2f} times)"
            for name in asked
            if real[name] != asked[name]
        ),
    )


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """Operations of the products that the work does, and its result."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = work()
    of = counter.get_flop_counts().get("Global", {})
    return sum(int(count) for kernel, count in of.items() if str(kernel) in PRODUCTS), result


def _nothing(at: float | None = None, /) -> None:
    pass
