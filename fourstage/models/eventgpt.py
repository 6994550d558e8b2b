"""EventGPT: event images → text. Its settings, files, prompt, loading and sizes; its network is in
`eventgpt_network.py`, which imports torch.

It reads checkpoints in the published layout (XduSyL/EventGPT, commit 4680549).

    pipeline = Model.from_weights(config.model, config.weights, device="cpu", precision="fp32", attention="sdpa")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fourstage.config.schema import Config, ModelSettings, PretrainedWeights, Weights
from fourstage.config.values import Range
from fourstage.lazy import lazy
from fourstage.models import building, stand_ins
from fourstage.models.base import ModelFacts, StagedPipeline, check_rows, patches
from fourstage.models.checkpoint_config import FLAG, TEXT, nullable, read_clip, read_llama, section_of, taken
from fourstage.models.checkpoint_files import (
    checkpoint_files,
    checkpoint_hash,
    from_hub,
    read_checkpoint_config,
    read_shapes,
    read_tensors,
)
from fourstage.models.checkpoint_processors import (
    check_vocabulary,
    clip_processor,
    end_ids,
    pad_id,
    read_processor,
    read_tokenizer,
)
from fourstage.models.demo_tokenizer import demo_tokenizer
from fourstage.models.reading import check_files, local_folder, read_json, reported, shown
from fourstage.models.shapes import Shapes, shapes_of
from fourstage.stages import Media, Sample, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import CLIPVisionConfig, LlamaConfig

    from fourstage.data import media
    from fourstage.models import eventgpt_network as network
    from fourstage.models.eventgpt_network import EventGPT
else:
    media = lazy("fourstage.data.media")
    network = lazy("fourstage.models.eventgpt_network")
    torch = lazy("torch")
transformers = lazy("transformers", "CLIPVisionConfig")

PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: <ev_start><event><ev_end>\n{question} ASSISTANT:"
)
PLACEHOLDER = "<event>"
EVENT_ID = -200  # stands where the event tokens go; never an id of the tokenizer
MAX_ROWS = 2048  # the published code cuts prompt and media to this many rows (hard-coded there)


@dataclass(frozen=True)
class Settings(ModelSettings):
    """Which files of a sample are read, and how they become event images."""

    name: str = "eventgpt"
    source: Literal["auto", "png", "images", "npy", "mp4"] = "auto"
    event_images: Annotated[int, Range(1, 64)] = 5
    max_span_us: Annotated[int, Range(1)] | None = 100_000
    mp4_folder: Literal["event_mp4", "mp4"] = "event_mp4"
    separate_tower: ClassVar[bool] = True
    pictures: ClassVar[str] = "event images"

    def read(self, sample: Sample) -> Media:
        return media.read_event_images(sample, self.source, self.event_images, self.max_span_us, self.mp4_folder)

    def files(self, sample: Sample) -> list[Path]:
        return media.event_files(sample, self.source, self.mp4_folder)

    def read_file(self, path: Path, max_bytes: int) -> Media:
        return media.read_event_file(path, self.event_images, self.max_span_us, max_bytes)

    @property
    def image_count(self) -> int:
        return self.event_images

    @property
    def media_sources(self) -> tuple[str, ...]:
        return {"auto": ("png", "npy"), "images": ("png",)}.get(self.source, (self.source,))


class Model(StagedPipeline):
    """EventGPT in four stages."""

    settings: Settings
    model: EventGPT
    placeholder = PLACEHOLDER
    image_name = "event_image"
    visual_name = "spatio_temporal_tokens"

    def __init__(self, settings: Settings, **parts: Any):
        super().__init__(settings, **parts)
        self.count_vision_calls(self.model.visual_tower)

    @classmethod
    def preflight(cls, config: Config) -> None:
        if isinstance(config.weights, PretrainedWeights):
            checkpoint_folder(config.weights)
        super().preflight(config)

    @classmethod
    def from_weights(
        cls,
        settings: Settings,
        weights: Weights,
        device: str,
        precision: str,
        attention: str,
        prompt: str | None = None,
    ) -> Model:
        found = stand_ins.resolved(weights, settings.name)
        if isinstance(found, PretrainedWeights):
            model = _load_published(settings, found, device, precision, attention, prompt)
            source = stand_ins.source_of(weights, settings.name, model.facts.checkpoint)
            model.facts = replace(model.facts, checkpoint=source)
            return model
        assert not isinstance(weights, PretrainedWeights)
        vision, text = architecture(weights.size)
        tokenizer = demo_tokenizer()
        built = _build(vision, text, device, precision, attention)
        building.fill_random(built, weights.seed, std=building.RANDOM_STD[weights.size])
        return cls(
            settings,
            model=built,
            tokenizer=tokenizer,
            image_processor=clip_processor(vision.image_size),
            eos_ids=(2,),
            pad_id=0,
            facts=ModelFacts.read_off(
                built,
                attention,
                f"random, {weights.size}, seed {weights.seed}",
                building.parameters_hash(built),
                MAX_ROWS,
            ),
        )

    @classmethod
    def asked_parameters(cls, weights: Weights) -> int | None:
        if isinstance(weights, PretrainedWeights):
            return None
        return building.count_parameters(lambda: network.EventGPT(*architecture(weights.size)))

    @property
    def generator(self) -> Any:
        return self.model.language_model

    def shapes(self) -> Shapes:
        model: Any = self.model
        head = self.generator.get_output_embeddings()
        return shapes_of(
            model.visual_tower, model.visual_projector, model.language_model.model, head, model.feature_adaptor
        )

    def prompt(self, question: str) -> str:
        return PROMPT.format(question=question)

    def prompt_ids(self, question: str, images: int) -> Tensor:
        return torch.tensor(prompt_ids(self.tokenizer, question))

    def visual_features(self, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        return self.model.encode(pixel_values, images_per_sample)

    def embed(self, input_ids: Tensor, visual: Tensor) -> Tensor:
        return self.model.splice(input_ids, visual)

    @property
    def patches_per_image(self) -> int:
        return patches(self.model.visual_tower.config)

    def inner_modules(self) -> dict[str, nn.Module]:
        return {
            "clip_last_hidden_state": self.model.visual_tower,
            "projector_out": self.model.visual_projector,
            "adaptor_out": self.model.feature_adaptor,
        }

    def own_generate(self, input_ids: Tensor, pixel_values: Tensor, settings: Any) -> list[int]:
        return list(self.model.generate(input_ids, pixel_values, generation_config=settings)[0].tolist())

    def rows(self, input_ids: Tensor, images: int) -> int:
        return prompt_rows(len(input_ids), self.model.visual_tower.config, images)


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """Token ids of the prompt with EVENT_ID for the media; each chunk is tokenised by itself, as published."""
    before, after = PROMPT.format(question=question).split(PLACEHOLDER)
    rest = tokenizer(after).input_ids
    # each chunk gets the begin token, which only the first one keeps
    return [*tokenizer(before).input_ids, EVENT_ID, *(rest[1:] if rest[:1] == [tokenizer.bos_token_id] else rest)]


def prompt_rows(tokens: int, vision: CLIPVisionConfig, images: int) -> int:
    """Rows of a prompt of so many ids with its media: T temporal and P+1 spatial tokens in place of EVENT_ID."""
    return tokens - 1 + images + patches(vision) + 1


def architecture(size: str) -> tuple[CLIPVisionConfig, LlamaConfig]:
    """`tiny` for a CPU; `7b` as published: CLIP ViT-L/14-336 and Vicuna-7B v1.5, 7,079,684,096 parameters."""
    if size == "tiny":
        return building.tiny_clip(), building.tiny_llama(len(demo_tokenizer()))
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    return vision, building.llama_7b(vocab_size=32000, rms_norm_eps=1e-5)


def _build(vision: CLIPVisionConfig, text: LlamaConfig, device: str, precision: str, attention: str) -> EventGPT:
    vision._attn_implementation = attention
    text._attn_implementation = attention
    model = building.build(lambda: network.EventGPT(vision, text), device, building.dtype_of(precision))
    building.clear_generation_defaults(model.language_model)
    return model


def checkpoint_folder(weights: PretrainedWeights) -> Path:
    """The folder that was named. Raises UserError where none was, or it is not there."""
    if weights.path is None:
        raise UserError(
            "weights=pretrained model=eventgpt needs weights.path=<folder>: EventGPT's checkpoint is on no hub; "
            "download it from the link in XduSyL/EventGPT's README"
        )
    folder = local_folder(weights.path, "weights.path")
    if not folder.is_dir():
        raise UserError(f"weights.path={folder} is not a folder: give the folder that holds config.json and weights")
    return folder


def _load_published(
    settings: Settings,
    weights: PretrainedWeights,
    device: str,
    precision: str,
    attention: str,
    prompt: str | None,
) -> Model:
    """A checkpoint in the published layout: `model_type: EventChat_llama`, the tower's weights inside."""
    folder = checkpoint_folder(weights)
    config = read_checkpoint_config(folder, model_type="EventChat_llama", model="EventGPT")
    if "use_event_qformer" in config:
        raise UserError(f"{folder}/config.json has use_event_qformer: the published code has no such module")
    files = checkpoint_files(folder)
    shapes = read_shapes(files)
    where = f"{folder}/config.json"
    rules = {"mm_visual_tower": nullable(TEXT), "mm_use_im_patch_token": FLAG, "mm_use_im_start_end": FLAG}
    own = taken(config, rules, where)
    text = read_llama(config, where)
    tower = _tower_folder(weights.vision_tower, own.get("mm_visual_tower"), folder)
    vision = _tower_config(tower)
    building.check_fit(
        lambda: network.EventGPT(vision, text),
        shapes,
        published_key,
        folder,
        {
            "num_hidden_layers": text.num_hidden_layers,
            f"num_hidden_layers (of the tower in {tower})": vision.num_hidden_layers,
        },
    )
    tokenizer = _published_tokenizer(folder, own, text)
    image_processor = read_processor(tower, vision.image_size)
    eos_ids = end_ids(folder, text)
    context = min(text.max_position_embeddings, MAX_ROWS)
    if prompt is not None:
        with reported("the prompt cannot be tokenised"):
            ids = prompt_ids(tokenizer, prompt)
        check_rows(prompt_rows(len(ids), vision, settings.event_images), context, prompt)
    model = _build(vision, text, device, precision, attention)
    building.fill_from(model, read_tensors(files), published_key, folder)
    return Model(
        settings,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        eos_ids=eos_ids,
        pad_id=pad_id(text),
        facts=ModelFacts.read_off(model, attention, str(folder), checkpoint_hash(files), context),
    )


def published_key(name: str) -> str:
    """The key in the published state dict of a parameter that has this name here."""
    name = re.sub(r"^visual_tower\.", "model.visual_tower.visual_tower.vision_model.", name)
    name = re.sub(r"^(visual_projector|feature_adaptor)\.", r"model.\1.", name)
    return name.removeprefix("language_model.")


def _published_tokenizer(folder: Path, config: dict[str, Any], text: LlamaConfig) -> Any:
    """The folder's tokenizer with the tokens that its config.json says were added, in the published code's order."""
    tokenizer = read_tokenizer(folder, config=text)  # transformers knows no EventChat_llama
    added = ["<ev_patch>"] if config.get("mm_use_im_patch_token", True) else []
    added += ["<ev_start>", "<ev_end>"] if config.get("mm_use_im_start_end", False) else []
    missing = [token for token in added if token not in tokenizer.get_vocab()]
    # the published code gives <ev_patch> a random row where it has none, and no prompt holds it
    if missing and not (missing == ["<ev_patch>"] and len(tokenizer) == text.vocab_size):
        tokenizer.add_tokens(missing, special_tokens=True)
    check_vocabulary(tokenizer, text.vocab_size, folder, padded=False)
    return tokenizer


def _tower_config(tower: Path) -> CLIPVisionConfig:
    """The tower's config, from a CLIP of images or of images and texts."""
    where = f"{tower}/config.json"
    config: Mapping[str, Any] = read_json(tower / "config.json")
    kind = config.get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise UserError(f"{where} describes model_type {shown(kind)}; EventGPT's vision tower is a CLIP")
    if kind == "clip":
        config, where = section_of(config, "vision_config", where), f"{where}: vision_config"
    return read_clip(config, where)


def _tower_folder(chosen: str | None, named: str | None, folder: Path) -> Path:
    """Where the tower's config and preprocessing are: a path beside the checkpoint, an absolute one, or a hub id."""
    instead = "set weights.vision_tower=<folder or hub id>"
    tower = chosen or named
    if not tower:
        raise UserError(f"{folder}/config.json has no mm_visual_tower; {instead}")
    source = "weights.vision_tower" if chosen else f"{folder}/config.json: mm_visual_tower"
    for place in (local_folder(str(folder / tower), source), local_folder(tower, source)):
        if (place / "config.json").is_file():
            check_files(place)
            return place
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", tower):
        source = "weights.vision_tower" if chosen else f"{folder}/config.json"
        raise UserError(
            f"{source} names the vision tower {shown(tower)}, and there is no such folder with a config.json; "
            f"{instead} (openai/clip-vit-large-patch14-336 for EventGPT-7b)"
        )
    return Path(from_hub(tower, ("config.json", "preprocessor_config.json"), "weights.vision_tower=<folder>"))
