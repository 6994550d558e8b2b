"""EventGPT: event images → CLIP tower → projector → adaptor → spatio-temporal pooling → LLaMA.

What the published code computes (XduSyL/EventGPT, commit 4680549), on transformers' own CLIP and LLaMA:

    images [T, 3, S, S] → tower, last hidden state with CLS, no post-layernorm      [T, P+1, d_v]
                        → two-layer projector, exact GELU                           [T, P+1, D]
                        → feature adaptor, one linear layer, per image              [T, P+1, D]
                        → temporal means over tokens, then spatial means over T     [T + P+1, D]
                        → in the prompt's place of <event>

It reads checkpoints in the published layout; it leaves out the training code and the paths that no released
checkpoint takes (the query former, learned temporal embeddings).

    pipeline = load_eventgpt(config.model, config.weights, device="cpu", precision="fp32", attention="sdpa")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from fourstage.config.schema import EventGPTSettings, PretrainedWeights, Weights
from fourstage.data.media import event_files, read_event_file, read_event_images
from fourstage.models import checkpoints as w
from fourstage.models.base import ModelFacts, StagedPipeline, check_rows, patches
from fourstage.models.checkpoint_config import FLAG, TEXT, nullable, read_clip, read_llama, section_of, taken
from fourstage.models.demo_tokenizer import demo_tokenizer
from fourstage.models.reading import check_files, local_folder, read_json, reported, shown
from fourstage.stages import Media, Sample, UserError

PROMPT = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: <ev_start><event><ev_end>\n{question} ASSISTANT:"
)
PLACEHOLDER = "<event>"
EVENT_ID = -200  # stands where the event tokens go; never an id of the tokenizer
MAX_ROWS = 2048  # the published code cuts prompt and media to this many rows (hard-coded there)


class EventGPT(nn.Module):
    """The whole model: `encode` gives event tokens, `splice` puts them into a prompt, `generate` does all at once."""

    def __init__(self, vision: CLIPVisionConfig, text: LlamaConfig):
        super().__init__()
        self.visual_tower = CLIPVisionModel(vision)
        self.visual_projector = nn.Sequential(
            nn.Linear(vision.hidden_size, text.hidden_size),
            nn.GELU(),
            nn.Linear(text.hidden_size, text.hidden_size),
        )
        self.feature_adaptor = nn.Linear(text.hidden_size, text.hidden_size)
        self.language_model = LlamaForCausalLM(text)

    def encode(self, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Per sample [T + P+1, D], from all samples' images [images, 3, S, S] in one call of the tower."""
        hidden = self.visual_tower(pixel_values).last_hidden_state  # [images, P+1, d_v]
        adapted = self.feature_adaptor(self.visual_projector(hidden))  # [images, P+1, D]
        return tuple(pool(frames) for frames in adapted.split(list(images_per_sample)))

    def splice(self, input_ids: Tensor, events: Tensor) -> Tensor:
        """[rows, D]: the embeddings of ids [tokens] with `events` in place of EVENT_ID, at most MAX_ROWS."""
        place = int((input_ids == EVENT_ID).nonzero()[0])
        embed = self.language_model.get_input_embeddings()
        return torch.cat([embed(input_ids[:place]), events, embed(input_ids[place + 1 :])])[:MAX_ROWS]

    def generate(self, input_ids: Tensor, pixel_values: Tensor, **options: Any) -> Tensor:
        """New ids [1, steps] for one prompt [tokens] and its images [T, 3, S, S], unstaged."""
        (events,) = self.encode(pixel_values, (len(pixel_values),))
        embeds = self.splice(input_ids, events)[None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        ids: Tensor = self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        return ids


def pool(frames: Tensor) -> Tensor:
    """[T, P+1, D] → [T + P+1, D]: each image's mean over its tokens (CLS too), then each token's over images."""
    return torch.cat([frames.mean(dim=1), frames.mean(dim=0)])


class EventGPTPipeline(StagedPipeline):
    """EventGPT in four stages."""

    model: EventGPT
    placeholder = PLACEHOLDER

    def __init__(self, settings: EventGPTSettings, **parts: Any):
        super().__init__(**parts)
        self.settings = settings
        self.count_vision_calls(self.model.visual_tower)

    @property
    def generator(self) -> Any:
        return self.model.language_model

    def load(self, sample: Sample) -> Media:
        settings = self.settings
        return read_event_images(
            sample, settings.source, settings.event_images, settings.max_span_us, settings.mp4_folder
        )

    def files(self, sample: Sample) -> list[Path]:
        return event_files(sample, self.settings.source, self.settings.mp4_folder)

    def load_file(self, path: Path, max_bytes: int) -> Media:
        return read_event_file(path, self.settings.event_images, self.settings.max_span_us, max_bytes)

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


def load_eventgpt(
    settings: EventGPTSettings,
    weights: Weights,
    device: str,
    precision: str,
    attention: str,
    prompt: str | None = None,
) -> EventGPTPipeline:
    """EventGPT with the weights that were chosen, on `device`.

    Raises UserError where they do not fit, and where `prompt` is longer than the context, before the long part.
    """
    if isinstance(weights, PretrainedWeights):
        return _load_published(settings, weights, device, precision, attention, prompt)
    vision, text = architecture(weights.size)
    tokenizer = demo_tokenizer()
    model = _build(vision, text, device, precision, attention)
    w.fill_random(model, weights.seed, std=w.RANDOM_STD[weights.size])
    return EventGPTPipeline(
        settings,
        model=model,
        tokenizer=tokenizer,
        image_processor=w.clip_processor(vision.image_size),
        eos_ids=(2,),
        pad_id=0,
        facts=ModelFacts.read_off(
            model, attention, f"random, {weights.size}, seed {weights.seed}", w.parameters_hash(model), MAX_ROWS
        ),
    )


def architecture(size: str) -> tuple[CLIPVisionConfig, LlamaConfig]:
    """`tiny` for a CPU; `7b` as published: CLIP ViT-L/14-336 and Vicuna-7B v1.5, 7,079,684,096 parameters."""
    if size == "tiny":
        return w.tiny_clip(), w.tiny_llama(len(demo_tokenizer()))
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    return vision, w.llama_7b(vocab_size=32000, rms_norm_eps=1e-5)


def _build(vision: CLIPVisionConfig, text: LlamaConfig, device: str, precision: str, attention: str) -> EventGPT:
    vision._attn_implementation = attention
    text._attn_implementation = attention
    model = w.build(lambda: EventGPT(vision, text), device, w.DTYPES[precision])
    w.clear_generation_defaults(model.language_model)
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
    settings: EventGPTSettings,
    weights: PretrainedWeights,
    device: str,
    precision: str,
    attention: str,
    prompt: str | None,
) -> EventGPTPipeline:
    """A checkpoint in the published layout: `model_type: EventChat_llama`, the tower's weights inside."""
    folder = checkpoint_folder(weights)
    config = w.read_checkpoint_config(folder, model_type="EventChat_llama", model="EventGPT")
    if "use_event_qformer" in config:
        raise UserError(f"{folder}/config.json has use_event_qformer: the published code has no such module")
    files = w.checkpoint_files(folder)
    shapes = w.read_shapes(files)
    where = f"{folder}/config.json"
    rules = {"mm_visual_tower": nullable(TEXT), "mm_use_im_patch_token": FLAG, "mm_use_im_start_end": FLAG}
    own = taken(config, rules, where)
    text = read_llama(config, where)
    tower = _tower_folder(weights.vision_tower, own.get("mm_visual_tower"), folder)
    vision = _tower_config(tower)
    w.check_fit(
        lambda: EventGPT(vision, text),
        shapes,
        _published_key,
        folder,
        {
            "num_hidden_layers": text.num_hidden_layers,
            f"num_hidden_layers (of the tower in {tower})": vision.num_hidden_layers,
        },
    )
    tokenizer = _published_tokenizer(folder, own, text)
    image_processor = w.read_processor(tower, vision.image_size)
    eos_ids = w.end_ids(folder, text)
    context = min(text.max_position_embeddings, MAX_ROWS)
    if prompt is not None:
        with reported("the prompt cannot be tokenised"):
            ids = prompt_ids(tokenizer, prompt)
        check_rows(prompt_rows(len(ids), vision, settings.event_images), context, prompt)
    model = _build(vision, text, device, precision, attention)
    w.fill_from(model, w.read_tensors(files), _published_key, folder)
    return EventGPTPipeline(
        settings,
        model=model,
        tokenizer=tokenizer,
        image_processor=image_processor,
        eos_ids=eos_ids,
        pad_id=w.pad_id(text),
        facts=ModelFacts.read_off(model, attention, str(folder), w.checkpoint_hash(files), context),
    )


def _published_key(name: str) -> str:
    """A parameter's name here → its key in the published state dict."""
    name = re.sub(r"^visual_tower\.", "model.visual_tower.visual_tower.vision_model.", name)
    name = re.sub(r"^(visual_projector|feature_adaptor)\.", r"model.\1.", name)
    return name.removeprefix("language_model.")


def _published_tokenizer(folder: Path, config: dict[str, Any], text: LlamaConfig) -> Any:
    """The folder's tokenizer with the tokens that its config.json says were added, in the published code's order."""
    tokenizer = w.read_tokenizer(folder, config=text)  # transformers knows no EventChat_llama
    added = ["<ev_patch>"] if config.get("mm_use_im_patch_token", True) else []
    added += ["<ev_start>", "<ev_end>"] if config.get("mm_use_im_start_end", False) else []
    missing = [token for token in added if token not in tokenizer.get_vocab()]
    # the published code gives <ev_patch> a random row where it has none, and no prompt holds it
    if missing and not (missing == ["<ev_patch>"] and len(tokenizer) == text.vocab_size):
        tokenizer.add_tokens(missing, special_tokens=True)
    w.check_vocabulary(tokenizer, text.vocab_size, folder, padded=False)
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
    return Path(w.from_hub(tower, ("config.json", "preprocessor_config.json"), "weights.vision_tower=<folder>"))
