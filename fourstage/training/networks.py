"""The stand-ins' networks: the published classes, smaller, and checkpoints in the published layouts.

stand_in = make("eventgpt", tokenizer, seed=0)
rows = stand_in.visual(pixels)           # [scenes, visual tokens, D]
save(stand_in, Path("weights/eventgpt"))
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourstage.data.formats.questions import Style
from fourstage.models import eventgpt, eventgpt_network
from fourstage.models.checkpoint_processors import clip_processor
from fourstage.models.demo_tokenizer import demo_tokenizer
from fourstage.training.pool import SIDE

MODELS = ("eventgpt", "videollava")


@dataclass(frozen=True)
class Size:
    """How large a stand-in is."""

    tower_hidden: int = 128
    tower_layers: int = 4
    tower_heads: int = 4
    patch: int = 16
    hidden: int = 192
    layers: int = 2
    heads: int = 6


class StandIn(ABC):
    """A network in training, with its prompt: what differs between the two models."""

    name: str
    network: Any
    tokenizer: Any
    style: Style  # in which it answers open questions
    encoded: dict[str, tuple[list[int], list[int]]]  # ids of questions and answers that were met before

    @abstractmethod
    def visual(self, pixels: Tensor) -> Tensor:
        """[scenes, visual tokens, D] from [scenes, images, 3, SIDE, SIDE]."""

    @abstractmethod
    def summary(self, rows: Tensor, images: int) -> Tensor:
        """[scenes, D]: rows of `visual` as one vector, from which the auxiliary heads read the facts."""

    @abstractmethod
    def around(self, question: str) -> tuple[list[int], list[int]]:
        """The ids of the prompt before and after the visual tokens."""

    @property
    @abstractmethod
    def language(self) -> Any:
        """The module that takes `inputs_embeds` and gives logits."""

    @property
    @abstractmethod
    def embedding(self) -> nn.Embedding:
        """The table of token embeddings."""

    @abstractmethod
    def files(self) -> dict[str, str]:
        """The text files of a checkpoint, by their paths in its folder."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The parameters under their published names."""


class EventGPT(StandIn):
    """EventGPT, small."""

    name = "eventgpt"
    style: Style = "event"

    def __init__(self, size: Size) -> None:
        self.encoded = {}
        self.tokenizer = demo_tokenizer()
        self.vision = _vision(size)
        self.text = _text(size, len(self.tokenizer))
        self.network = eventgpt_network.EventGPT(self.vision, self.text)

    def visual(self, pixels: Tensor) -> Tensor:
        scenes, images = pixels.shape[:2]
        return torch.stack(self.network.encode(pixels.flatten(0, 1), (images,) * scenes))

    def summary(self, rows: Tensor, images: int) -> Tensor:
        return rows[:, :images].mean(1) + rows[:, images]  # the temporal tokens, and CLS's spatial one

    def around(self, question: str) -> tuple[list[int], list[int]]:
        ids = eventgpt.prompt_ids(self.tokenizer, question)
        at = ids.index(eventgpt.EVENT_ID)
        return ids[:at], ids[at + 1 :]

    @property
    def language(self) -> Any:
        return self.network.language_model

    @property
    def embedding(self) -> nn.Embedding:
        embedding: nn.Embedding = self.network.language_model.get_input_embeddings()
        return embedding

    def files(self) -> dict[str, str]:
        config = _plain(self.text) | {
            "model_type": "EventChat_llama",
            "architectures": ["EventChatModel"],
            "mm_visual_tower": "clip",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
        }
        return {
            "config.json": _json(config),
            "clip/config.json": _json(_plain(self.vision)),
            "clip/preprocessor_config.json": _processor(),
        }

    def tensors(self) -> dict[str, Tensor]:
        return {eventgpt.published_key(name): value for name, value in self.network.named_parameters()}


class VideoLlava(StandIn):
    """Video-LLaVA, small. The image tower, which no stage runs, gets the video tower's values when it is saved."""

    name = "videollava"
    style: Style = "video"

    def __init__(self, size: Size) -> None:
        from transformers import VideoLlavaConfig, VideoLlavaForConditionalGeneration

        self.encoded = {}
        self.tokenizer = demo_tokenizer(extra_tokens=("<image>", "<video>"))
        self.config = VideoLlavaConfig(
            vision_config=_plain(_vision(size)),
            text_config=_plain(_text(size, len(self.tokenizer))),
            image_token_index=len(self.tokenizer) - 2,
            video_token_index=len(self.tokenizer) - 1,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
        )
        self.network = VideoLlavaForConditionalGeneration(self.config)
        self.network.model.image_tower = None

    def visual(self, pixels: Tensor) -> Tensor:
        scenes, images = pixels.shape[:2]
        tower = self.network.model.video_tower
        hidden = tower(pixels.flatten(0, 1)).last_hidden_state  # [scenes*images, P+1, d_v]
        rows: Tensor = self.network.model.multi_modal_projector(hidden)
        return rows.reshape(scenes, images * rows.shape[1], -1)

    def summary(self, rows: Tensor, images: int) -> Tensor:
        return rows.reshape(len(rows), images, -1, rows.shape[-1])[:, :, 0].mean(1)  # CLS, over the frames

    def around(self, question: str) -> tuple[list[int], list[int]]:
        text = f"USER: <video>\n{question} ASSISTANT:"
        ids = list(self.tokenizer(text).input_ids)
        at = ids.index(len(self.tokenizer) - 1)
        return ids[:at], ids[at + 1 :]

    @property
    def language(self) -> Any:
        return self.network

    @property
    def embedding(self) -> nn.Embedding:
        embedding: nn.Embedding = self.network.get_input_embeddings()
        return embedding

    def files(self) -> dict[str, str]:
        config = {
            "model_type": "video_llava",
            "architectures": ["VideoLlavaForConditionalGeneration"],
            "text_config": _plain(self.config.text_config),
            "vision_config": _plain(self.config.vision_config),
            "image_token_index": self.config.image_token_index,
            "video_token_index": self.config.video_token_index,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
        }
        return {"config.json": _json(config), "preprocessor_config.json": _processor()}

    def tensors(self) -> dict[str, Tensor]:
        own = dict(self.network.named_parameters())
        tower = {name: value for name, value in own.items() if ".video_tower." in name}
        return own | {name.replace(".video_tower.", ".image_tower."): value for name, value in tower.items()}


def make(name: str, size: Size, seed: int) -> StandIn:
    """A network of one of MODELS with values drawn from a seed. Raises ValueError for another name."""
    if name not in MODELS:
        raise ValueError(f"no stand-in is known for {name!r}; choose one of {', '.join(MODELS)}")
    torch.manual_seed(seed)
    return EventGPT(size) if name == "eventgpt" else VideoLlava(size)


def save(stand_in: StandIn, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """A checkpoint in the published layout: safetensors, configuration, tokenizer, preprocessing."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in stand_in.files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    tensors = {name: value.detach().to("cpu", dtype).clone() for name, value in stand_in.tensors().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stand_in.tokenizer.save_pretrained(folder)


def _vision(size: Size) -> Any:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=size.tower_hidden, intermediate_size=3 * size.tower_hidden, num_hidden_layers=size.tower_layers,
        num_attention_heads=size.tower_heads, image_size=SIDE, patch_size=size.patch, projection_dim=32,
    )  # fmt: skip


def _text(size: Size, vocabulary: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=size.hidden, intermediate_size=8 * size.hidden // 3,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip


def _processor() -> str:
    content: dict[str, Any] = clip_processor(SIDE).to_dict()
    return _json({key: value for key, value in content.items() if value is not None})


def _plain(config: Any) -> dict[str, Any]:
    """What differs from transformers' defaults, and the model's type."""
    content: dict[str, Any] = config.to_diff_dict()
    return {key: value for key, value in content.items() if key != "transformers_version"}


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
