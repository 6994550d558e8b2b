"""Video-LLaVA: eight video frames → CLIP-like tower → projector → LLaMA, by transformers' own model.

`VideoLlavaForConditionalGeneration` encodes inside `forward()`; here its video tower and projector run once, in
stage 3, and stage 4 generates from embeddings in which the features already stand. Image inputs are left out.

    pipeline = load_videollava(config.model, config.weights, device="cpu", precision="fp32", attention="sdpa")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from fourstage.config.schema import PretrainedWeights, VideoLlavaSettings, Weights
from fourstage.data.media import read_video_file, read_video_frames, video_files
from fourstage.models import checkpoints as w
from fourstage.models.base import ModelFacts, StagedPipeline, check_rows, patches
from fourstage.models.checkpoint_config import (
    ACTIVATION,
    FLAG,
    each,
    either,
    one_of,
    read_clip,
    read_llama,
    section_of,
    taken,
    whole,
)
from fourstage.models.demo_tokenizer import demo_tokenizer
from fourstage.models.reading import local_folder, reported
from fourstage.stages import Media, Sample, UserError

PROMPT = "USER: <video>\n{question} ASSISTANT:"
PLACEHOLDER = "<video>"
PUBLISHED_TOWER: dict[str, Any] = {  # what transformers takes where vision_config leaves a key out
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14,
}  # fmt: skip
HUB_ID = "LanguageBind/Video-LLaVA-7B-hf"


class VideoLlavaPipeline(StagedPipeline):
    """Video-LLaVA in four stages."""

    model: VideoLlavaForConditionalGeneration
    placeholder = PLACEHOLDER

    def __init__(self, settings: VideoLlavaSettings, **parts: Any):
        super().__init__(**parts)
        self.settings = settings
        self.video_id = int(self.model.config.video_token_index)
        self.tokens_per_frame = self.patches_per_image + 1  # and CLS
        self.count_vision_calls(self.model.model.video_tower)

    @property
    def generator(self) -> Any:
        return self.model

    def load(self, sample: Sample) -> Media:
        return read_video_frames(
            sample, self.settings.source, frames=self.settings.frames, rule=self.settings.frame_rule
        )

    def files(self, sample: Sample) -> list[Path]:
        return video_files(sample, self.settings.source, self.settings.frames, self.settings.frame_rule)

    def load_file(self, path: Path, max_bytes: int) -> Media:
        return read_video_file(path, self.settings.frames, self.settings.frame_rule, max_bytes)

    def prompt(self, question: str) -> str:
        return PROMPT.format(question=question)

    def prompt_ids(self, question: str, images: int) -> Tensor:
        return torch.tensor(prompt_ids(self.tokenizer, question, images * self.tokens_per_frame))

    def visual_features(self, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        videos = pixel_values[None]  # [1, frames of all samples, 3, S, S]: the tower sees frames, not videos
        features = self.model.model.get_video_features(pixel_values_videos=videos, return_dict=True).pooler_output
        return tuple(frames.flatten(0, 1) for frames in features.split(list(images_per_sample)))  # [frames*(P+1), D]

    def embed(self, input_ids: Tensor, visual: Tensor) -> Tensor:
        embeds = self.model.get_input_embeddings()(input_ids)
        return embeds.masked_scatter((input_ids == self.video_id)[:, None], visual.to(embeds.dtype))

    @property
    def patches_per_image(self) -> int:
        return patches(self.model.config.vision_config)

    def inner_modules(self) -> dict[str, nn.Module]:
        return {"video_features": self.model.model.multi_modal_projector}

    def own_generate(self, input_ids: Tensor, pixel_values: Tensor, settings: Any) -> list[int]:
        out = self.model.generate(
            input_ids=input_ids[None],
            attention_mask=torch.ones_like(input_ids)[None],
            pixel_values_videos=pixel_values[None],
            generation_config=settings,
        )
        return list(out[0, len(input_ids) :].tolist())

    def rows(self, input_ids: Tensor, images: int) -> int:
        return len(input_ids)


def prompt_ids(tokenizer: Any, question: str, visual_tokens: int) -> list[int]:
    """Token ids of the prompt, the placeholder as many times as there are visual tokens."""
    text = PROMPT.format(question=question).replace(PLACEHOLDER, PLACEHOLDER * visual_tokens)
    return list(tokenizer(text).input_ids)


def load_videollava(
    settings: VideoLlavaSettings,
    weights: Weights,
    device: str,
    precision: str,
    attention: str,
    prompt: str | None = None,
) -> VideoLlavaPipeline:
    """Video-LLaVA with the weights that were chosen, on `device`.

    Raises UserError where they do not fit, and where `prompt` is longer than the context, before the long part.
    """
    if isinstance(weights, PretrainedWeights):
        return _load_published(settings, weights, device, precision, attention, prompt)
    tokenizer = demo_tokenizer(extra_tokens=("<image>", PLACEHOLDER))
    config = architecture(weights.size, len(tokenizer), tokenizer.convert_tokens_to_ids(PLACEHOLDER))
    config._attn_implementation = attention
    model = w.build(lambda: VideoLlavaForConditionalGeneration(config), device, w.DTYPES[precision])
    w.fill_random(model, weights.seed, std=w.RANDOM_STD[weights.size])
    w.clear_generation_defaults(model)
    return VideoLlavaPipeline(
        settings,
        model=model,
        tokenizer=tokenizer,
        image_processor=w.clip_processor(config.vision_config.image_size),
        eos_ids=(2,),
        pad_id=0,
        facts=ModelFacts.read_off(
            model,
            attention,
            f"random, {weights.size}, seed {weights.seed}",
            w.parameters_hash(model),
            config.text_config.max_position_embeddings,
        ),
    )


def architecture(size: str, vocab_size: int, video_id: int) -> VideoLlavaConfig:
    """`tiny` for a CPU; `7b` as published (LanguageBind/Video-LLaVA-7B-hf's config.json)."""
    if size == "tiny":
        vision, text = w.tiny_clip(), w.tiny_llama(vocab_size)
    else:
        vision = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224,
            patch_size=14, projection_dim=768,
        )  # fmt: skip
        text = w.llama_7b(vocab_size=32064, rms_norm_eps=1e-5)
    return VideoLlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=video_id - 1,
        video_token_index=video_id,
    )


def _load_published(
    settings: VideoLlavaSettings,
    weights: PretrainedWeights,
    device: str,
    precision: str,
    attention: str,
    prompt: str | None,
) -> VideoLlavaPipeline:
    """A local folder, or a hub id, in transformers' layout; sizes and token ids come from its config."""
    source = weights.path or HUB_ID
    folder = local_folder(source, "weights.path")
    if not folder.is_dir():
        w.check_hub_id(source)
        folder = Path(w.from_hub(source, None, "weights.path=<folder>"))
    config = _read_config(w.read_checkpoint_config(folder, model_type="video_llava", model="Video-LLaVA"), folder)
    text, vision = config.text_config, config.vision_config
    files = w.checkpoint_files(folder)
    shapes = w.read_shapes(files)
    keys = {_name(key): key for key in shapes}
    w.check_fit(
        lambda: VideoLlavaForConditionalGeneration(config),
        shapes,
        lambda name: keys.get(name, name),
        folder,
        {
            "text_config: num_hidden_layers": text.num_hidden_layers,
            "vision_config: num_hidden_layers": vision.num_hidden_layers,
        },
    )
    tokenizer = w.read_tokenizer(folder, config=text)
    w.check_vocabulary(tokenizer, text.vocab_size, folder, padded=True)
    if (found := tokenizer.get_vocab().get(PLACEHOLDER)) != config.video_token_index:
        raise UserError(
            f"{folder}: the tokenizer has {PLACEHOLDER} as {found}, "
            f"config.json says video_token_index {config.video_token_index}"
        )
    with reported(f"the tokenizer files in {folder} cannot be used"):
        placed = prompt_ids(tokenizer, "", visual_tokens=2).count(config.video_token_index)
    if placed != 2:
        raise UserError(
            f"{folder}: the tokenizer makes {placed} ids of two {PLACEHOLDER} in a prompt, expected 2: "
            f"{PLACEHOLDER} must be a special token in its files"
        )
    image_processor = w.read_processor(folder, vision.image_size)
    eos_ids = w.end_ids(folder, text)
    if prompt is not None:
        visual_tokens = settings.frames * (patches(vision) + 1)
        with reported("the prompt cannot be tokenised"):
            ids = prompt_ids(tokenizer, prompt, visual_tokens)
        check_rows(len(ids), text.max_position_embeddings, prompt)
    config._attn_implementation = attention
    model = w.build(lambda: VideoLlavaForConditionalGeneration(config), device, w.DTYPES[precision])
    w.fill_from(model, w.read_tensors(files), lambda name: keys.get(name, name), folder)
    w.clear_generation_defaults(model)
    return VideoLlavaPipeline(
        settings,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        eos_ids=eos_ids,
        pad_id=w.pad_id(text),
        facts=ModelFacts.read_off(model, attention, source, w.checkpoint_hash(files), text.max_position_embeddings),
    )


def _read_config(content: Mapping[str, Any], folder: Path) -> VideoLlavaConfig:
    """The folder's config.json as transformers has it. Raises UserError with file and key for what cannot be."""
    where = f"{folder}/config.json"
    sections = {}
    for key, model_type in (("text_config", "llama"), ("vision_config", "clip_vision_model")):
        sections[key] = section_of(content, key, where)
        taken(sections[key], {"model_type": one_of(model_type)}, f"{where}: {key}")
    text = read_llama(sections["text_config"], f"{where}: text_config")
    vision = read_clip(PUBLISHED_TOWER | dict(sections["vision_config"]), f"{where}: vision_config")
    depth = vision.num_hidden_layers
    layer = whole(-depth, -1)  # transformers counts them from the end; it takes 0 for none
    token = whole(0, text.vocab_size - 1)
    own = taken(
        content,
        {
            "image_token_index": token,
            "video_token_index": token,
            "projector_hidden_act": ACTIVATION,
            "vision_feature_select_strategy": one_of("default", "full"),
            "vision_feature_layer": either(layer, each(layer)),
            "multimodal_projector_bias": FLAG,
            "tie_word_embeddings": FLAG,
        },
        where,
    )
    with reported(f"{where} describes no Video-LLaVA that can be built"):
        return VideoLlavaConfig(text_config=text, vision_config=vision, **own)


def _name(key: str) -> str:
    """A checkpoint's key → the parameter's name here; transformers has moved the parts three times."""
    key = re.sub(r"^(model\.)?(language_model\.)?lm_head\.", "lm_head.", key)
    key = re.sub(r"^(model\.)?language_model\.(model\.)?", "model.language_model.", key)
    key = re.sub(r"^(model\.)?(image_tower|video_tower)\.(vision_model\.)?", r"model.\2.", key)
    return re.sub(r"^(model\.)?multi_modal_projector\.", "model.multi_modal_projector.", key)
