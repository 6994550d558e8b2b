"""Video-LLaVA: eight video frames → CLIP-like tower → projector → LLaMA, by transformers' own model.

Image inputs, and the tower for them, are left out.

    pipeline = Model.from_weights(config.model, config.weights, device="cpu", precision="fp32", attention="sdpa")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fourstage.lazy import lazy
from fourstage.models import building
from fourstage.models.frames import FrameSettings
from fourstage.models.llava_family import LlavaPipeline

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import VideoLlavaConfig
transformers = lazy("transformers", "VideoLlavaConfig", "VideoLlavaForConditionalGeneration")


@dataclass(frozen=True)
class Settings(FrameSettings):
    """conf/model/videollava.yaml."""

    name: str = "videollava"


class Model(LlavaPipeline):
    """Video-LLaVA in four stages."""

    title = "Video-LLaVA"
    network = "VideoLlavaForConditionalGeneration"
    config_class = "VideoLlavaConfig"
    model_type = "video_llava"
    hub_id = "LanguageBind/Video-LLaVA-7B-hf"
    placeholder = "<video>"
    placeholder_key = "video_token_index"
    token_keys = ("image_token_index", "video_token_index")
    prompt_text = "USER: <video>\n{question} ASSISTANT:"
    extra_tokens = ("<image>", "<video>")
    published_tower = {  # noqa: RUF012
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 224, "patch_size": 14,
    }  # fmt: skip

    @classmethod
    def architecture(cls, size: str, vocab_size: int, placeholder_id: int) -> VideoLlavaConfig:
        """`tiny` for a CPU; `7b` as published (LanguageBind/Video-LLaVA-7B-hf's config.json)."""
        if size == "tiny":
            vision, text = building.tiny_clip(), building.tiny_llama(vocab_size)
        else:
            vision = transformers.CLIPVisionConfig(**cls.published_tower, projection_dim=768)
            text = building.llama_7b(vocab_size=32064, rms_norm_eps=1e-5)
        return transformers.VideoLlavaConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_index=placeholder_id - 1,
            video_token_index=placeholder_id,
        )

    @property
    def tower(self) -> nn.Module:
        tower: nn.Module = self.model.model.video_tower
        return tower

    def visual_features(self, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        videos = pixel_values[None]  # [1, frames of all samples, 3, S, S]: the tower sees frames, not videos
        features = self.model.model.get_video_features(pixel_values_videos=videos, return_dict=True).pooler_output
        return tuple(frames.flatten(0, 1) for frames in features.split(list(images_per_sample)))  # [frames*(P+1), D]

    def media_inputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"pixel_values_videos": pixel_values[None]}

    def inner_modules(self) -> dict[str, nn.Module]:
        return {"video_features": self.model.model.multi_modal_projector}
