"""What a checkpoint's config.json says of its models, checked key by key before a library sees it.

Each key that is read has a type and a range here, and only these keys reach transformers: a file that is wrong is
refused with its name, the key and what was expected, whatever a library would have made of it. What no range can
say (does the model fit the tensors?) is asked by `building.check_fit`.

    text = read_llama(config, "checkpoint/config.json")                      # LlamaConfig
    vision = read_clip(config["vision_config"], "…/config.json: vision_config")  # CLIPVisionConfig
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fourstage.lazy import lazy
from fourstage.models.reading import reported, shown
from fourstage.stages import UserError

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, LlamaConfig
activations = lazy("transformers.activations")
transformers = lazy("transformers", "CLIPVisionConfig", "LlamaConfig")

WIDEST = 1 << 20  # values of one layer's output; the largest published models have 2^14 to 2^16
LONGEST = 1 << 27  # tokens of a context or a vocabulary
MISSING = object()


class Rule:
    """A type and a range: `holds` decides, `expected` says it in an error."""

    def __init__(self, expected: str, holds: Callable[[Any], bool], nullable: bool = False):
        self.expected, self.holds, self.nullable = expected + (" or null" if nullable else ""), holds, nullable


def whole(low: int, high: int) -> Rule:
    """A whole number; neither true nor 3.0 is one."""
    return Rule(f"a whole number from {low} to {high}", lambda v: type(v) is int and low <= v <= high)


def real(high: float) -> Rule:
    """A number above 0 up to `high`; true is none, and neither are NaN and infinity."""
    return Rule(f"a number above 0 up to {high:g}", lambda v: type(v) in (int, float) and 0 < v <= high)


def one_of(*choices: str) -> Rule:
    """One of a few words."""
    return Rule("one of " + ", ".join(choices), lambda v: isinstance(v, str) and v in choices)


def each(rule: Rule, length: int | None = None) -> Rule:
    """A list of values that `rule` allows, not empty."""
    of = f"a list of {length}" if length else "a list"
    return Rule(
        f"{of}, each {rule.expected}",
        lambda v: isinstance(v, list) and 0 < len(v) == (length or len(v)) and all(map(rule.holds, v)),
    )


def either(*rules: Rule) -> Rule:
    """What any of the rules allows."""
    return Rule(" or ".join(rule.expected for rule in rules), lambda v: any(rule.holds(v) for rule in rules))


def nullable(rule: Rule) -> Rule:
    """What the rule allows, or null."""
    return Rule(rule.expected, rule.holds, nullable=True)


FLAG = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("a text", lambda v: isinstance(v, str))
ACTIVATION = Rule("the name of an activation of transformers", lambda v: isinstance(v, str) and v in activations.ACT2FN)

LLAMA = {
    "vocab_size": whole(1, LONGEST),
    "hidden_size": whole(1, WIDEST),
    "intermediate_size": whole(1, WIDEST),
    "num_hidden_layers": whole(1, LONGEST),
    "num_attention_heads": whole(1, WIDEST),
    "num_key_value_heads": nullable(whole(1, WIDEST)),
    "head_dim": nullable(whole(2, WIDEST)),
    "hidden_act": ACTIVATION,
    "max_position_embeddings": whole(1, LONGEST),
    "rms_norm_eps": real(1),
    "attention_bias": FLAG,
    "mlp_bias": FLAG,
    "tie_word_embeddings": FLAG,
    "rope_theta": nullable(real(1e15)),
}
ROPE = {
    "rope_type": one_of("default", "linear", "dynamic", "yarn", "longrope", "llama3"),
    "rope_theta": real(1e15),
    "partial_rotary_factor": real(1),
    "factor": real(1e6),
    "original_max_position_embeddings": nullable(whole(1, LONGEST)),
    "attention_factor": nullable(real(1e6)),
    "beta_fast": nullable(real(1e6)),
    "beta_slow": nullable(real(1e6)),
    "low_freq_factor": real(1e6),
    "high_freq_factor": real(1e6),
    "mscale": real(1e6),
    "mscale_all_dim": real(1e6),
    "truncate": FLAG,
    "short_factor": each(real(1e6)),
    "long_factor": each(real(1e6)),
}
CLIP = {
    "hidden_size": whole(1, WIDEST),
    "intermediate_size": whole(1, WIDEST),
    "num_hidden_layers": whole(1, LONGEST),
    "num_attention_heads": whole(1, WIDEST),
    "num_channels": Rule("3, for red, green and blue", lambda v: type(v) is int and v == 3),
    "image_size": whole(1, 1 << 14),
    "patch_size": whole(1, 1 << 14),
    "hidden_act": ACTIVATION,
    "layer_norm_eps": real(1),
}


def taken(section: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> dict[str, Any]:
    """The keys that `rules` name, as far as the section has them with a value. Raises UserError for a wrong one."""
    for key, rule in rules.items():
        check(section.get(key, MISSING), key, rule, where)
    return {key: section[key] for key in rules if section.get(key) is not None}


def check(value: Any, key: str, rule: Rule, where: str) -> None:
    """Raise UserError with file and key for a value that the rule forbids; absent is allowed."""
    if value is MISSING or (value is None and rule.nullable):
        return
    if value is None or not rule.holds(value):
        raise UserError(f"{where}: {key} is {shown(value)}, expected {rule.expected}")


def section_of(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """An object inside the file. Raises UserError where it is absent or something else."""
    value = config.get(key)
    if not isinstance(value, Mapping):
        found = "is not there" if key not in config else f"is {shown(value)}"
        raise UserError(f"{where}: {key} {found}, expected an object")
    return value


def read_llama(section: Mapping[str, Any], where: str) -> LlamaConfig:
    """The language model of a config.json, of transformers 4 (`rope_theta`, `rope_scaling`) or 5."""
    sizes = taken(section, LLAMA, where)
    rope = {"rope_type": "default", "rope_theta": float(sizes.pop("rope_theta", 10000.0))} | _rope(section, where)
    with reported(f"{where} describes no LLaMA that can be built"):
        config = transformers.LlamaConfig(**sizes, **_token_ids(section, where), rope_parameters=rope)
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if heads % groups:
        raise UserError(f"{where}: num_attention_heads is {heads}, no multiple of num_key_value_heads {groups}")
    if width % 2:
        raise UserError(
            f"{where}: heads have {width} values (head_dim, or hidden_size / num_attention_heads), not even"
        )
    return config


def _rope(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    key = "rope_parameters" if section.get("rope_parameters") is not None else "rope_scaling"
    if section.get(key) is None:
        return {}
    rope = dict(section_of(section, key, where))
    if "type" in rope:
        rope["rope_type"] = rope.pop("type")
    return taken(rope, ROPE, f"{where}: {key}")


def _token_ids(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    last = section.get("vocab_size", transformers.LlamaConfig.vocab_size) - 1
    rules = {
        "pad_token_id": nullable(whole(-1, last)),
        "bos_token_id": nullable(whole(0, last)),
        "eos_token_id": end_rule(last),
    }
    return taken(section, rules, where)


def end_rule(last: int) -> Rule:
    """Ids of tokens that end an answer: one or several, all in the vocabulary."""
    return nullable(either(whole(0, last), each(whole(0, last))))


def read_clip(section: Mapping[str, Any], where: str) -> CLIPVisionConfig:
    """A vision tower."""
    with reported(f"{where} describes no CLIP that can be built"):
        config = transformers.CLIPVisionConfig(**taken(section, CLIP, where))
    if config.patch_size > config.image_size:
        raise UserError(f"{where}: patch_size is {config.patch_size}, larger than image_size {config.image_size}")
    return config
