"""Video-LLaVA: eight video frames → CLIP-like tower → projector → LLaMA, by transformers' own model.

`VideoLlavaForConditionalGeneration` encodes inside `forward()`; here its video tower and projector run once, in
stage 3, and stage 4 generates from embeddings in which the features already stand. Image inputs are left out.

    pipeline = load_videollava(config.model, config.weights, device="cpu", precision="fp32", attention="sdpa")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, VideoLlavaConfig, VideoLlavaForConditionalGeneration

from fourstage.config.schema import PretrainedWeights, VideoLlavaSettings, Weights
from fourstage.data.media import read_video_file, read_video_frames, video_files
from fourstage.models import checkpoints as w
from fourstage.models.base import ModelFacts, StagedPipeline, check_rows, patches
from fourstage.models.demo_tokenizer import demo_tokenizer
from fourstage.stages import Media, Sample, UserError

PROMPT = "USER: <video>\n{question} ASSISTANT:"
PLACEHOLDER = "<video>"
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
    folder = Path(source).expanduser()
    if not folder.is_dir():
        w.check_hub_id(source)
        folder = Path(w.from_hub(source, None, "weights.path=<folder>"))
    config_json = w.read_checkpoint_config(folder, model_type="video_llava", model="Video-LLaVA")
    files = w.checkpoint_files(folder)
    w.read_shapes(files)  # finds truncated files
    with w.told(f"{folder}/config.json describes no Video-LLaVA that can be built"):
        config = VideoLlavaConfig.from_pretrained(folder, local_files_only=True)
    text = config.text_config
    tokenizer = w.read_tokenizer(folder)
    w.check_vocabulary(tokenizer, text.vocab_size, folder, padded=True)
    if (found := tokenizer.get_vocab().get(PLACEHOLDER)) != config.video_token_index:
        raise UserError(
            f"{folder}: the tokenizer has {PLACEHOLDER} as {found}, "
            f"config.json says video_token_index {config.video_token_index}"
        )
    image_processor = w.read_processor(folder, config.vision_config.image_size)
    eos_ids = w.end_ids(folder, config_json.get("text_config") or {})
    if prompt is not None:
        visual_tokens = settings.frames * (patches(config.vision_config) + 1)
        check_rows(len(prompt_ids(tokenizer, prompt, visual_tokens)), text.max_position_embeddings, prompt)
    with w.told(f"the checkpoint {folder} cannot be loaded"):
        model, report = VideoLlavaForConditionalGeneration.from_pretrained(
            folder,
            config=config,
            dtype=w.DTYPES[precision],
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told by check_loading, by name
            weights_only=True,
            local_files_only=True,
        )
    w.check_loading(report, folder)
    model = model.to(device).eval().requires_grad_(False)
    w.clear_generation_defaults(model)
    return VideoLlavaPipeline(
        settings,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        eos_ids=eos_ids,
        pad_id=w.pad_id(text.to_dict()),
        facts=ModelFacts.read_off(model, attention, source, w.checkpoint_hash(files), text.max_position_embeddings),
    )
