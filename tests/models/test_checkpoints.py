"""Checkpoints in every layout that they come in, and what is said of those that are broken.

They are built here under the published key names, from transformers' own models with values of our own.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    VideoLlavaForConditionalGeneration,
)
from transformers.utils import logging

from fourstage.models import building
from fourstage.models.checkpoint_files import checkpoint_files, read_tensors
from fourstage.models.checkpoint_processors import clip_processor
from fourstage.models.demo_tokenizer import demo_tokenizer
from fourstage.models.eventgpt import EVENT_ID
from fourstage.models.eventgpt import Model as EventGPT
from fourstage.models.videollava import Model as VideoLlava
from fourstage.stages import Sample, SampleError, Sampling, UserError
from tests.models.conftest import media
from tests.settings import EVENTGPT, VIDEOLLAVA, pretrained

WORDS = len(demo_tokenizer())
MARKERS = ("<ev_patch>", "<ev_start>", "<ev_end>")
CONFIG = {  # keys as the published code's trainer writes them; sizes and RoPE unlike any default
    "architectures": ["EventChatModel"], "model_type": "EventChat_llama", "torch_dtype": "float32",
    "transformers_version": "4.37.2", "event_feature_adaptor": True, "image_aspect_ratio": "square",
    "mm_projector_lr": None, "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
    "mm_visual_tower": "./clip-tower", "stage3": True, "tokenizer_model_max_length": 2048, "pretraining_tp": 1,
    "tune_mm_mlp_adapter": False, "use_cache": True, "use_feature_adaptor": True, "vocab_size": WORDS,
    "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_theta": 20000.0, "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.02,
}  # fmt: skip
TOWER = {
    "model_type": "clip_vision_model", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "image_size": 56, "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
State = dict[str, Tensor]
Spoil = Callable[[Path], Any]  # what breaks a checkpoint folder


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish(tmp_path / "checkpoint")


def publish(folder: Path, layout: str = "safetensors", markers: int = 0, **changes: Any) -> Path:
    """A checkpoint in the published layout; `markers` of its added tokens are in the tokenizer's files."""
    config = {key: value for key, value in (CONFIG | changes).items() if value != "absent"}
    folder.mkdir()
    write_json(folder / "config.json", config)
    demo_tokenizer(extra_tokens=MARKERS[:markers]).save_pretrained(folder)
    tower = folder / "clip-tower"
    tower.mkdir()
    write_json(tower / "config.json", TOWER)
    clip_processor(56).save_pretrained(tower)
    write_state(folder, published_state(config), layout)
    torch.save({"model.visual_projector.0.bias": torch.zeros(96)}, folder / "mm_projector.bin")
    (folder / "training_args.bin").write_bytes(pickle.dumps(Poison(folder / "unpickled")))
    return folder


class Poison:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def language_config(config: dict[str, Any]) -> LlamaConfig:
    """LLaMA's config in transformers 5's terms, by hand."""
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    if config["rope_scaling"]:
        rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": config["rope_theta"]}
    return LlamaConfig(
        vocab_size=config["vocab_size"], hidden_size=96, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=config["num_key_value_heads"], head_dim=config.get("head_dim"),
        rms_norm_eps=1e-6, max_position_embeddings=4096, rope_parameters=rope, pad_token_id=0,
        tie_word_embeddings=config["tie_word_embeddings"],
    )  # fmt: skip


def published_state(config: dict[str, Any]) -> State:
    """Random values under the published names. Tied embeddings are saved once."""
    language = LlamaForCausalLM(language_config(config)).state_dict()
    if config["tie_word_embeddings"]:
        del language["lm_head.weight"]
    vision = CLIPVisionModel(CLIPVisionConfig(**TOWER)).state_dict()
    prefix = "model.visual_tower.visual_tower.vision_model."
    shapes = {key: tensor.shape for key, tensor in language.items()}
    shapes |= {prefix + key.removeprefix("vision_model."): tensor.shape for key, tensor in vision.items()}
    for name, (rows, columns) in {"visual_projector.0": (96, 48), "visual_projector.2": (96, 96)}.items():
        shapes |= {f"model.{name}.weight": torch.Size((rows, columns)), f"model.{name}.bias": torch.Size((rows,))}
    shapes |= {"model.feature_adaptor.weight": torch.Size((96, 96)), "model.feature_adaptor.bias": torch.Size((96,))}
    generator = torch.Generator().manual_seed(5)
    return {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def write_state(folder: Path, state: State, layout: str) -> None:
    """`safetensors` or `bin`, each as one file, as `sharded`, or as shards `unindexed`."""
    suffix, _, kind = layout.partition(" ")
    stem, save = ("model", save_file) if suffix == "safetensors" else ("pytorch_model", torch.save)
    if not kind:
        save(state, folder / f"{stem}.{suffix}")
        return
    weight_map = {key: f"{stem}-{i % 8 + 1:05d}-of-00008.{suffix}" for i, key in enumerate(state)}
    for name in set(weight_map.values()):
        save({key: state[key] for key, file in weight_map.items() if file == name}, folder / name)
    if kind == "sharded":
        write_json(folder / f"{stem}.{suffix}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def change_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def change_state(folder: Path, change: Callable[[State], Any], name: str = "model.safetensors") -> None:
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, metadata={"format": "pt"})


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def load(folder: Path, precision: str = "fp32", tower: str | None = None) -> EventGPT:
    return EventGPT.from_weights(EVENTGPT, pretrained(folder, tower), "cpu", precision, "sdpa")


def parameters_by_published_key(pipeline: EventGPT) -> State:
    """Every parameter under its published key; the names are put together here, not asked of the loader."""
    model = pipeline.model
    found = dict(model.language_model.state_dict())
    prefix = "model.visual_tower.visual_tower.vision_model."
    found |= {prefix + key.removeprefix("vision_model."): t for key, t in model.visual_tower.state_dict().items()}
    for name in ("visual_projector", "feature_adaptor"):
        found |= {f"model.{name}.{key}": t for key, t in getattr(model, name).state_dict().items()}
    return found


def refusal(load: Callable[[], Any]) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 700
    return message


LAYOUTS = ("safetensors", "safetensors sharded", "safetensors unindexed", "bin", "bin sharded", "bin unindexed")
VARIANTS: tuple[dict[str, Any], ...] = (
    {"head_dim": 16},
    {"num_key_value_heads": 6},
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
    {"tie_word_embeddings": True},
    {"mm_hidden_size": 48, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "freeze_mm": False},
    {"pad_token_id": -1, "attention_bias": "absent", "rope_scaling": None, "head_dim": None},
)


@pytest.mark.parametrize(
    ("layout", "changes"), [*((layout, {}) for layout in LAYOUTS), *(("bin", v) for v in VARIANTS)]
)
def test_every_parameter_and_logit_is_the_checkpoints(tmp_path: Path, layout: str, changes: dict[str, Any]) -> None:
    folder = publish(tmp_path / "checkpoint", layout, **changes)
    config = CONFIG | changes
    saved = published_state(config)
    pipeline = load(folder)
    found = parameters_by_published_key(pipeline)
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    assert found.keys() == saved.keys() | tied
    assert [key for key in saved if not torch.equal(found[key], saved[key])] == []
    own = LlamaForCausalLM(language_config(config)).eval()
    missing, unexpected = own.load_state_dict({k: t for k, t in saved.items() if "visual" not in k}, strict=False)
    assert set(missing) == tied
    assert set(unexpected) == {"model.feature_adaptor.weight", "model.feature_adaptor.bias"}
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        assert torch.equal(pipeline.model.language_model(input_ids=ids).logits, own(input_ids=ids).logits)
    assert not (folder / "unpickled").exists()
    assert pipeline.pad_id == 0


@pytest.mark.parametrize("changes", [{}, {"rope_scaling": {"type": "linear", "factor": 2.0}}])
def test_the_frequencies_of_rope_follow_theta_in_fp32_in_a_bf16_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = load(publish(tmp_path / "checkpoint", **changes), "bf16").model.language_model
    found = model.model.rotary_emb.inv_freq
    expected = [20000.0 ** (-2 * i / 16) / (2 if changes else 1) for i in range(8)]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {layer.input_layernorm.variance_epsilon for layer in model.model.layers} == {1e-6}


def test_an_fp16_checkpoint_is_converted_to_the_runs_dtype(tmp_path: Path) -> None:
    folder = publish(tmp_path / "checkpoint")
    change_state(folder, lambda state: state.update({key: tensor.half() for key, tensor in state.items()}))
    found = parameters_by_published_key(load(folder, "bf16"))
    saved = published_state(CONFIG)
    assert [key for key in saved if not torch.equal(found[key], saved[key].half().bfloat16())] == []


def test_tied_embeddings_that_a_bin_file_holds_twice_are_one_parameter(tmp_path: Path) -> None:
    folder = publish(tmp_path / "checkpoint", "bin", tie_word_embeddings=True)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, folder / "pytorch_model.bin")
    model = load(folder).model.language_model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, state["model.embed_tokens.weight"])


def test_what_older_files_hold_beside_parameters_is_passed_over(folder: Path) -> None:
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
        "model.visual_tower.visual_tower.vision_model.embeddings.position_ids": torch.zeros(1, 17),
    }
    change_state(folder, lambda state: state.update(old))
    assert load(folder).model.language_model.model.rotary_emb.inv_freq[0] == 1


def test_a_bin_file_of_before_torch_1_6_is_read(tmp_path: Path) -> None:
    folder = publish(tmp_path / "checkpoint", "bin")
    saved = published_state(CONFIG)
    torch.save(saved, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(load(folder).model.feature_adaptor.weight, saved["model.feature_adaptor.weight"])


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_at_most_two_tensors_of_a_file_are_in_memory(tmp_path: Path, layout: str) -> None:
    files = checkpoint_files(publish(tmp_path / "checkpoint", layout))
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    for _, tensor in read_tensors(files):
        alive.add(tensor)
        most = max(most, len(alive))
    assert most <= 2


@pytest.mark.parametrize("flags", [{}, {"mm_use_im_patch_token": True}, {"mm_use_im_patch_token": "absent"}])
@pytest.mark.parametrize("in_files", [True, False])
def test_added_tokens_follow_the_vocabulary_as_patch_start_end(
    tmp_path: Path, flags: dict[str, Any], in_files: bool
) -> None:
    expected = MARKERS if flags else MARKERS[1:]
    changes = {"vocab_size": WORDS + len(expected), "mm_use_im_start_end": True} | flags
    folder = publish(tmp_path / "checkpoint", **changes)
    if in_files:
        demo_tokenizer(extra_tokens=expected).save_pretrained(folder)
    pipeline = load(folder)
    added = pipeline.tokenizer.convert_tokens_to_ids(list(expected))
    assert added == list(range(WORDS, WORDS + len(expected)))
    ids = pipeline.prompt_ids("Is it day?", images=5).tolist()
    place = ids.index(EVENT_ID)
    assert ids[place - 1 : place + 2] == [added[-2], EVENT_ID, added[-1]]


@pytest.mark.parametrize("patch", [False, True, "absent"])
def test_markers_without_ids_of_their_own_stay_in_the_prompt_as_text(tmp_path: Path, patch: Any) -> None:
    pipeline = load(publish(tmp_path / "checkpoint", mm_use_im_patch_token=patch))
    assert len(pipeline.tokenizer) == WORDS
    ids = pipeline.prompt_ids("Is it day?", images=5)
    place = ids.tolist().index(EVENT_ID)
    assert pipeline.tokenizer.decode(ids[:place]).endswith("USER: <ev_start>")
    assert pipeline.tokenizer.decode(ids[place + 1 :]).startswith("<ev_end>\nIs it day?")


@pytest.mark.real
def test_the_reference_checkpoint_answers_the_same_from_bin_shards(tmp_path: Path, shared: Path) -> None:
    reference = shared / "reference" / "eventgpt" / "A"
    folder = tmp_path / "checkpoint"
    shutil.copytree(reference / "checkpoint", folder, copy_function=shutil.copyfile)
    write_state(folder, load_file(reference / "checkpoint" / "model.safetensors"), "bin sharded")
    (folder / "model.safetensors").unlink()
    pipeline = load(folder)
    read = pipeline.load(Sample("sample1", "sample1", shared / "real", event_data="sample1.npy"))
    inputs = pipeline.preprocess([read], ["Describe in detail what happened in the scene."])
    greedy = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=24)
    generation = pipeline.decode(inputs, pipeline.encode(inputs), greedy, lambda: None)
    assert list(generation.token_ids[0]) == np.load(reference / "reference.npz")["q0_generated_ids"].tolist()


@pytest.mark.real
@pytest.mark.parametrize("known_by", ["flags", "added_tokens_decoder", "added_tokens.json"])
def test_tokens_added_to_a_sentencepiece_tokenizer_are_single_ids(tmp_path: Path, shared: Path, known_by: str) -> None:
    flags: dict[str, Any] = (
        {"mm_use_im_start_end": True, "mm_use_im_patch_token": "absent"} if known_by == "flags" else {}
    )
    folder = publish(tmp_path / "checkpoint", vocab_size=2003, **flags)
    (folder / "tokenizer.json").unlink()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(shared / "reference" / "eventgpt" / "A" / "checkpoint" / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if known_by == "added_tokens_decoder":
        as_unk = config["added_tokens_decoder"]["0"]
        for i, marker in enumerate(MARKERS, 2000):
            config["added_tokens_decoder"][str(i)] = as_unk | {"content": marker}
    elif known_by == "added_tokens.json":  # as before transformers 4.34
        del config["added_tokens_decoder"]
    if known_by != "flags":
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "added_tokens.json", {marker: i for i, marker in enumerate(MARKERS, 2000)})
    tokenizer = load(folder).tokenizer
    assert tokenizer.convert_tokens_to_ids(list(MARKERS)) == [2000, 2001, 2002]
    assert tokenizer.tokenize("USER: <ev_start>") == ["▁USER", ":", "▁", "<ev_start>"]
    assert tokenizer.tokenize("<ev_end>\nWhat")[:2] == ["<ev_end>", "<0x0A>"]


def test_a_question_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    pipeline = load(publish(tmp_path / "checkpoint", max_position_embeddings=128))
    with pytest.raises(SampleError, match="the model's context ends at 128"):
        pipeline.preprocess([media(5)], ["Is it day? " * 20])


# --- the vision tower's folder


def test_the_tower_is_found_beside_the_checkpoint_by_an_absolute_path_and_by_the_setting(folder: Path) -> None:
    elsewhere = folder.parent / "towers" / "clip"
    shutil.move(folder / "clip-tower", elsewhere)
    change_json(folder / "config.json", mm_visual_tower=str(elsewhere))
    load(folder)
    change_json(folder / "config.json", mm_visual_tower="../towers/clip")
    load(folder)
    change_json(folder / "config.json", mm_visual_tower="/not/here")
    assert "names the vision tower '/not/here'" in refusal(lambda: load(folder))
    load(folder, tower=str(elsewhere))
    message = refusal(lambda: load(folder, tower="/nor/here"))
    assert message.startswith("weights.vision_tower names the vision tower '/nor/here'")


def test_the_tower_can_be_a_whole_clip_with_the_settings_of_2021(folder: Path) -> None:
    write_json(folder / "clip-tower" / "config.json", {"model_type": "clip", "vision_config": TOWER, "text_config": {}})
    old = {"crop_size": 56, "size": 56, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3}
    write_json(folder / "clip-tower" / "preprocessor_config.json", old)
    pipeline = load(folder)
    inputs = pipeline.preprocess([media(5)], ["Is it day?"])
    assert inputs.pixel_values.shape == (5, 3, 56, 56)


def test_a_towers_hub_id_is_looked_up_in_the_cache_and_offline_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = folder.parent / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    change_json(folder / "config.json", mm_visual_tower="owner/clip-large")
    message = refusal(lambda: load(folder))
    assert "owner/clip-large is not in the local cache" in message
    assert message.endswith("give a local copy: weights.vision_tower=<folder>")
    repository = cache / "models--owner--clip-large"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    shutil.move(folder / "clip-tower", repository / "snapshots" / ("0" * 40))
    load(folder)


# --- checkpoints that cannot be used: said in one line, before a model is built


def in_config(**changes: Any) -> Spoil:
    return lambda folder: change_json(folder / "config.json", **changes)


def in_state(change: Callable[[State], Any]) -> Spoil:
    return lambda folder: change_state(folder, change)


def as_bin(write: Callable[[Path], Any]) -> Spoil:
    """pytorch_model.bin in place of the safetensors, as `write` writes it."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write(folder / "pytorch_model.bin")

    return spoil


def shards(kind: str, lost: str) -> Spoil:
    def spoil(folder: Path) -> None:
        write_state(folder, load_file(folder / "model.safetensors"), kind)
        (folder / "model.safetensors").unlink()
        (folder / lost).unlink()

    return spoil


def header_only(folder: Path) -> None:
    file = folder / "model.safetensors"
    cut(file, 8 + int.from_bytes(file.read_bytes()[:8], "little"))


def bin_cut(size: int) -> Spoil:
    def write(path: Path) -> None:
        torch.save(published_state(CONFIG), path)
        cut(path, size)

    return as_bin(write)


def write(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def remove(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


BROKEN: dict[str, tuple[Spoil, str]] = {
    "folder": (shutil.rmtree, "is not a folder: give the folder that holds config.json"),
    "no config": (remove("config.json"), "is not a checkpoint folder: it has no config.json"),
    "config cut": (lambda f: cut(f / "config.json", 40), "config.json is not valid JSON"),
    "config list": (write("config.json", "[]"), "config.json holds a list, expected an object"),
    "other model": (in_config(model_type="llava"), "describes model_type 'llava'; EventGPT is 'EventChat_llama'"),
    "query former": (in_config(use_event_qformer=False), "has use_event_qformer"),
    "heads": (in_config(num_attention_heads=7), "no LLaMA that can be built"),
    "a text": (in_config(hidden_size="big"), "config.json: hidden_size is 'big', expected a whole number from 1 to"),
    "activation": (in_config(hidden_act="none"), "hidden_act is 'none', expected the name of an activation"),
    "rope": (in_config(rope_scaling={"type": "linear"}), "no LLaMA that can be built"),
    "no weights": (remove("model.safetensors"), "is not a checkpoint folder: no model.safetensors, pytorch_model.bin"),
    "missing": (in_state(lambda s: s.pop("model.norm.weight")), "missing: model.norm.weight"),
    "missing tower": (
        in_state(lambda s: s.pop("model.visual_tower.visual_tower.vision_model.pre_layrnorm.bias")),
        "missing: model.visual_tower.visual_tower.vision_model.pre_layrnorm.bias",
    ),
    "missing adaptor": (in_state(lambda s: s.pop("model.feature_adaptor.bias")), "missing: model.feature_adaptor.bias"),
    "unexpected": (in_state(lambda s: s.update({"model.attention_layers.x": s["lm_head.weight"] + 0})),
                   "unexpected: model.attention_layers.x"),
    "shape": (in_state(lambda s: s.update({"model.norm.weight": torch.ones(64)})),
              "of the wrong shape: model.norm.weight is [64], the config asks for [96]"),
    "header only": (header_only, "model.safetensors is truncated or damaged"),
    "header cut": (lambda f: cut(f / "model.safetensors", 100), "model.safetensors is truncated or damaged"),
    "data cut": (lambda f: cut(f / "model.safetensors", 300_000), "model.safetensors is truncated or damaged"),
    "byte cut": (lambda f: cut(f / "model.safetensors", -1), "model.safetensors is truncated or damaged"),
    "empty": (lambda f: cut(f / "model.safetensors", 0), "model.safetensors is truncated or damaged"),
    "bin cut": (bin_cut(300_000), "pytorch_model.bin is truncated or damaged"),
    "bin byte cut": (bin_cut(-1), "pytorch_model.bin is truncated or damaged"),
    "bin empty": (bin_cut(0), "pytorch_model.bin is truncated or damaged"),
    "bin text": (as_bin(lambda p: p.write_text("<html>not found</html>")), "pytorch_model.bin is "),
    "bin list": (as_bin(lambda p: torch.save([torch.ones(1)], p)), "holds no table of named tensors"),
    "bin nested": (as_bin(lambda p: torch.save({"model": {}}, p)), "holds no table of named tensors"),
    "bin poison": (as_bin(lambda p: torch.save({"x": Poison(p.with_name("unpickled"))}, p)),
                   "pytorch_model.bin is no file of tensors, or holds other objects too, which are not loaded"),
    "raw poison": (as_bin(lambda p: p.write_bytes(pickle.dumps(Poison(p.with_name("unpickled"))))),
                   "pytorch_model.bin is no file of tensors"),
    "index": (shards("bin sharded", "pytorch_model-00003-of-00008.bin"),
              "lists files that are not there: pytorch_model-00003-of-00008.bin"),
    "shard": (shards("bin unindexed", "pytorch_model-00008-of-00008.bin"),
              "not all of 8 shards, and no index; missing: pytorch_model-00008-of-00008.bin"),
    "bad index": (lambda f: (remove("model.safetensors")(f), write("model.safetensors.index.json", "{}")(f)),
                  "model.safetensors.index.json has no weight_map"),
    "tokens": (lambda f: demo_tokenizer(MARKERS).save_pretrained(f),
               f"the tokenizer has {WORDS + 3} tokens and the embedding {WORDS} rows"),
    "flags": (in_config(mm_use_im_start_end=True),
              f"the tokenizer has {WORDS + 2} tokens and the embedding {WORDS} rows"),
    "rows": (in_config(vocab_size=WORDS + 5),
             f"model.embed_tokens.weight is [{WORDS}, 96], the config asks for [{WORDS + 5}, 96]"),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"),
                     "has neither tokenizer.json nor tokenizer.model"),
    "no vocabulary": (remove("tokenizer.json"), "has neither tokenizer.json nor tokenizer.model"),
    "tokenizer cut": (lambda f: cut(f / "tokenizer.json", 3000), "tokenizer.json is not valid JSON"),
    "tokenizer {}": (write("tokenizer.json", "{}"), "tokenizer.json cannot be read, at its key model"),
    "tokenizer config": (write("tokenizer_config.json", "{"), "tokenizer_config.json is not valid JSON"),
    "sentencepiece": (lambda f: (remove("tokenizer.json")(f), write("tokenizer.model", "\x12\x7f")(f)),
                      "the tokenizer files in"),
    "no tower": (in_config(mm_visual_tower=None),
                 "has no mm_visual_tower; set weights.vision_tower=<folder or hub id>"),
    "tower": (in_config(mm_visual_tower="./elsewhere"), "names the vision tower './elsewhere', and there is no such"),
    "siglip": (lambda f: change_json(f / "clip-tower" / "config.json", model_type="siglip"),
               "describes model_type 'siglip'; EventGPT's vision tower is a CLIP"),
    "tower heads": (lambda f: change_json(f / "clip-tower" / "config.json", num_attention_heads=5),
                    "clip-tower/config.json describes no CLIP"),
    "no preprocessor": (remove("clip-tower/preprocessor_config.json"),
                        "clip-tower has no preprocessor_config.json: put the one there"),
    "preprocessor cut": (write("clip-tower/preprocessor_config.json", "{"), "config.json is not valid JSON"),
    "preprocessor": (lambda f: clip_processor(112).save_pretrained(f / "clip-tower"),
                     "makes images of 112×112, the tower takes 56×56"),
    "generation": (write("generation_config.json", "{"), "generation_config.json is not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_eventgpt_checkpoint_is_named_before_a_model_is_built(
    folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, expected = BROKEN[fault]
    spoil(folder)
    monkeypatch.setattr(building, "build", lambda *_: pytest.fail("a model was built"))
    message = refusal(lambda: load(folder))
    assert expected in message
    assert str(folder) in message
    assert not (folder / "unpickled").exists()


# --- Video-LLaVA, in transformers' layout


@pytest.fixture
def hf_folder(tmp_path: Path) -> Path:
    return publish_hf(tmp_path / "hf")


def publish_hf(folder: Path) -> Path:
    """A tiny Video-LLaVA as transformers saves it."""
    tokenizer = demo_tokenizer(extra_tokens=("<image>", "<video>"))
    config = VideoLlava.architecture("tiny", len(tokenizer) + 8, len(tokenizer) - 1)  # padded, as the published one is
    model = building.build(lambda: VideoLlavaForConditionalGeneration(config), "cpu", torch.float32)
    building.fill_random(model, seed=3, std=0.1)
    for part in (model, tokenizer, clip_processor(112)):
        part.save_pretrained(folder)
    return folder


def load_hf(source: object, precision: str = "fp32") -> VideoLlava:
    return VideoLlava.from_weights(VIDEOLLAVA, pretrained(source), "cpu", precision, "sdpa")


def test_a_local_video_llava_has_the_folders_parameters_and_fp32_frequencies(hf_folder: Path) -> None:
    saved = load_file(hf_folder / "model.safetensors")
    pipeline = load_hf(hf_folder, "bf16")
    found = {key.removeprefix("model."): tensor for key, tensor in pipeline.model.state_dict().items()}
    sums = sorted(float(tensor.bfloat16().float().sum()) for tensor in saved.values())
    assert sorted(float(tensor.float().sum()) for tensor in found.values()) == pytest.approx(sums, abs=1e-3)
    rope = pipeline.model.model.language_model.rotary_emb.inv_freq
    assert rope.dtype == torch.float32
    assert rope[1] == pytest.approx(math.pow(10000, -2 / 16), rel=1e-6)


def test_video_llava_reads_bin_files_too(hf_folder: Path) -> None:
    torch.save(load_file(hf_folder / "model.safetensors"), hf_folder / "pytorch_model.bin")
    expected = load_hf(hf_folder).model.state_dict()
    (hf_folder / "model.safetensors").unlink()
    found = load_hf(hf_folder).model.state_dict()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_video_llavas_hub_id_is_looked_up_in_the_cache_and_offline_says_how_to_go_on(
    hf_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = hf_folder.parent / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(lambda: load_hf("owner/model"))
    assert "owner/model is not in the local cache" in message
    assert message.endswith("give a local copy: weights.path=<folder>")
    assert "is no folder here, and no hub id" in refusal(lambda: load_hf("/not/here"))
    repository = cache / "models--owner--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots").mkdir()
    shutil.move(hf_folder, repository / "snapshots" / ("1" * 40))
    assert load_hf("owner/model").facts.checkpoint == "owner/model"


BROKEN_HF: dict[str, tuple[Spoil, str]] = {
    "no config": (remove("config.json"), "is not a checkpoint folder: it has no config.json"),
    "config cut": (lambda f: cut(f / "config.json", 40), "config.json is not valid JSON"),
    "other model": (in_config(model_type="EventChat_llama"), "'EventChat_llama'; Video-LLaVA is 'video_llava'"),
    "a text": (in_config(text_config={"model_type": "llama", "hidden_size": "x"}),
               "config.json: text_config: hidden_size is 'x', expected a whole number"),
    "no weights": (remove("model.safetensors"), "is not a checkpoint folder: no model.safetensors"),
    "data cut": (lambda f: cut(f / "model.safetensors", 200_000), "model.safetensors is truncated or damaged"),
    "header cut": (lambda f: cut(f / "model.safetensors", 100), "model.safetensors is truncated or damaged"),
    "bin poison": (as_bin(lambda p: torch.save({"x": Poison(p.with_name("unpickled"))}, p)), "which are not loaded"),
    "no tokenizer": (remove("tokenizer.json"), "has neither tokenizer.json nor tokenizer.model"),
    "tokenizer cut": (lambda f: cut(f / "tokenizer.json", 3000), "tokenizer.json is not valid JSON"),
    "tokens": (lambda f: demo_tokenizer(tuple(f"<{i}>" for i in range(20))).save_pretrained(f),
               f"the tokenizer has {WORDS + 20} tokens and the embedding {WORDS + 10} rows"),
    "video token": (in_config(video_token_index=7), "config.json says video_token_index 7"),
    "no video token": (lambda f: demo_tokenizer().save_pretrained(f), "the tokenizer has <video> as None"),
    "no preprocessor": (remove("preprocessor_config.json"), "has no preprocessor_config.json: put the one there"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN_HF)
def test_a_broken_video_llava_checkpoint_is_named_before_it_is_loaded(
    hf_folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, expected = BROKEN_HF[fault]
    spoil(hf_folder)
    monkeypatch.setattr(building, "build", lambda *_: pytest.fail("a model was built"))
    message = refusal(lambda: load_hf(hf_folder))
    assert expected in message
    assert str(hf_folder) in message
    assert not (hf_folder / "unpickled").exists()


@pytest.mark.parametrize("kind", ["missing", "unexpected", "of the wrong shape"])
def test_video_llavas_keys_that_do_not_fit_are_named(hf_folder: Path, kind: str) -> None:
    def change(state: State) -> None:
        key = next(key for key in state if key.endswith("layers.1.mlp.up_proj.weight"))
        if kind == "missing":
            del state[key]
        elif kind == "unexpected":
            state["extra.up_proj.weight"] = torch.ones(3)
        else:
            state[key] = state[key][:-1].clone()

    change_state(hf_folder, change)
    message = refusal(lambda: load_hf(hf_folder))
    assert f"{kind}: " in message
    assert "up_proj.weight" in message


@pytest.mark.parametrize("layout", [*LAYOUTS[1:3], *LAYOUTS[4:]])
def test_video_llavas_shards_are_read_with_and_without_an_index(hf_folder: Path, layout: str) -> None:
    expected = load_hf(hf_folder).model.state_dict()
    write_state(hf_folder, load_file(hf_folder / "model.safetensors"), layout)
    (hf_folder / "model.safetensors").unlink()
    found = load_hf(hf_folder).model.state_dict()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("layout", ["published", "transformers 5"])
def test_video_llavas_keys_are_known_under_their_older_and_newer_names(hf_folder: Path, layout: str) -> None:
    """`language_model.model.…`, `video_tower.vision_model.…` as on the hub; `model.language_model.…` as in memory."""
    expected = load_hf(hf_folder).model.state_dict()

    def rename(key: str) -> str:
        if layout == "published":
            return re.sub(r"^(image|video)_tower\.", r"\1_tower.vision_model.", key)
        key = re.sub(r"^language_model\.model\.", "language_model.", key)
        return "lm_head.weight" if key == "language_model.lm_head.weight" else f"model.{key}"

    saved = load_file(hf_folder / "model.safetensors")
    save_file({rename(key): tensor for key, tensor in saved.items()}, hf_folder / "model.safetensors")
    found = load_hf(hf_folder).model.state_dict()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
