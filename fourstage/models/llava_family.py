"""What LLaVA-like models of transformers have in common: a CLIP tower, a projector and a LLaMA in one model.

transformers encodes inside `forward()`; here tower and projector run once, in stage 3, and stage 4 generates from
embeddings in which the features already stand. A model's own file names its parts, its prompt and its sizes: see
`videollava.py`, and `docs/extending.md` for a new one.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fourstage.config.schema import PretrainedWeights, Weights
from fourstage.lazy import lazy
from fourstage.models import building, stand_ins
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
from fourstage.models.checkpoint_files import (
    check_hub_id,
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
from fourstage.models.frames import FrameSettings
from fourstage.models.reading import local_folder, reported
from fourstage.stages import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy("torch")
transformers = lazy("transformers")


class LlavaPipeline(StagedPipeline):
    """A LLaVA-like model of transformers in four stages."""

    settings: FrameSettings
    title: ClassVar[str]  # the model's name, in errors
    network: ClassVar[str]  # transformers' class of the whole model
    config_class: ClassVar[str]  # and of its config
    model_type: ClassVar[str]  # in a checkpoint's config.json
    hub_id: ClassVar[str]  # of the published weights
    placeholder_key: ClassVar[str]  # config.json's key of the placeholder's token id
    token_keys: ClassVar[tuple[str, ...]]  # all keys of token ids in config.json
    prompt_text: ClassVar[str]  # with the placeholder and {question}
    published_tower: ClassVar[Mapping[str, Any]]  # what transformers takes where vision_config leaves a key out
    extra_tokens: ClassVar[tuple[str, ...]]  # added to the small tokenizer, the placeholder last

    def __init__(self, settings: FrameSettings, **parts: Any):
        super().__init__(settings, **parts)
        self.placeholder_id = int(getattr(self.model.config, self.placeholder_key))
        self.tokens_per_image = self.visual_tokens(self.model.config)
        self.count_vision_calls(self.tower)

    @classmethod
    @abstractmethod
    def architecture(cls, size: str, vocab_size: int, placeholder_id: int) -> Any:
        """transformers' config of the model with random weights: `tiny` for a CPU; `7b` as published."""

    @classmethod
    def visual_tokens(cls, config: Any) -> int:
        """Visual tokens of an image: its patches and CLS, unless a subclass leaves CLS out."""
        return patches(config.vision_config) + 1

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The vision tower that runs."""

    @classmethod
    def from_weights(
        cls,
        settings: FrameSettings,
        weights: Weights,
        device: str,
        precision: str,
        attention: str,
        prompt: str | None = None,
    ) -> LlavaPipeline:
        found = stand_ins.resolved(weights, settings.name)
        if isinstance(found, PretrainedWeights):
            pipeline = cls._from_published(settings, found, device, precision, attention, prompt)
            source = stand_ins.source_of(weights, settings.name, pipeline.facts.checkpoint)
            pipeline.facts = replace(pipeline.facts, checkpoint=source)
            return pipeline
        assert not isinstance(weights, PretrainedWeights)
        tokenizer = demo_tokenizer(extra_tokens=cls.extra_tokens)
        config = cls.architecture(weights.size, len(tokenizer), tokenizer.convert_tokens_to_ids(cls.placeholder))
        model = cls._build(config, device, precision, attention)
        building.fill_random(model, weights.seed, std=building.RANDOM_STD[weights.size])
        return cls(
            settings,
            model=model,
            tokenizer=tokenizer,
            image_processor=clip_processor(config.vision_config.image_size),
            eos_ids=(2,),
            pad_id=0,
            facts=ModelFacts.read_off(
                model,
                attention,
                f"random, {weights.size}, seed {weights.seed}",
                building.parameters_hash(model),
                config.text_config.max_position_embeddings,
            ),
        )

    @classmethod
    def asked_parameters(cls, weights: Weights) -> int | None:
        if isinstance(weights, PretrainedWeights):
            return None
        tokenizer = demo_tokenizer(extra_tokens=cls.extra_tokens)
        placeholder = tokenizer.convert_tokens_to_ids(cls.placeholder)
        config = cls.architecture(weights.size, len(tokenizer), placeholder)
        return building.count_parameters(lambda: cls._network(config))

    @property
    def generator(self) -> Any:
        return self.model

    def prompt(self, question: str) -> str:
        return self.prompt_text.format(question=question)

    def prompt_ids(self, question: str, images: int) -> Tensor:
        return torch.tensor(self._ids(self.tokenizer, question, images * self.tokens_per_image))

    def embed(self, input_ids: Tensor, visual: Tensor) -> Tensor:
        embeds: Tensor = self.model.get_input_embeddings()(input_ids)
        return embeds.masked_scatter((input_ids == self.placeholder_id)[:, None], visual.to(embeds.dtype))

    @property
    def patches_per_image(self) -> int:
        return patches(self.model.config.vision_config)

    def inner_modules(self) -> dict[str, nn.Module]:
        return {"projector_out": self.model.model.multi_modal_projector}

    def own_generate(self, input_ids: Tensor, pixel_values: Tensor, settings: Any) -> list[int]:
        out = self.model.generate(
            input_ids=input_ids[None],
            attention_mask=torch.ones_like(input_ids)[None],
            generation_config=settings,
            **self.media_inputs(pixel_values),
        )
        return list(out[0, len(input_ids) :].tolist())

    def rows(self, input_ids: Tensor, images: int) -> int:
        return len(input_ids)

    @classmethod
    def _ids(cls, tokenizer: Any, question: str, visual_tokens: int) -> list[int]:
        """Token ids of the prompt, the placeholder as many times as there are visual tokens."""
        text = cls.prompt_text.format(question=question)
        return list(tokenizer(text.replace(cls.placeholder, cls.placeholder * visual_tokens)).input_ids)

    @classmethod
    def _build(cls, config: Any, device: str, precision: str, attention: str) -> Any:
        config._attn_implementation = attention
        model = building.build(lambda: cls._network(config), device, building.dtype_of(precision))
        building.clear_generation_defaults(model)
        return model

    @classmethod
    def _network(cls, config: Any) -> Any:
        return getattr(transformers, cls.network)(config)

    @classmethod
    def _from_published(
        cls,
        settings: FrameSettings,
        weights: PretrainedWeights,
        device: str,
        precision: str,
        attention: str,
        prompt: str | None,
    ) -> LlavaPipeline:
        """A local folder, or a hub id, in transformers' layout; sizes and token ids come from its config."""
        source = weights.path or cls.hub_id
        folder = local_folder(source, "weights.path")
        if not folder.is_dir():
            check_hub_id(source)
            folder = Path(from_hub(source, None, "weights.path=<folder>"))
        config = cls._read_config(read_checkpoint_config(folder, cls.model_type, cls.title), folder)
        text, vision = config.text_config, config.vision_config
        files = checkpoint_files(folder)
        shapes = read_shapes(files)
        keys = {parameter_name(key): key for key in shapes}
        building.check_fit(
            lambda: cls._network(config),
            shapes,
            lambda name: keys.get(name, name),
            folder,
            {
                "text_config: num_hidden_layers": text.num_hidden_layers,
                "vision_config: num_hidden_layers": vision.num_hidden_layers,
            },
        )
        tokenizer = cls._read_tokenizer(folder, config)
        image_processor = read_processor(folder, vision.image_size)
        eos_ids = end_ids(folder, text)
        if prompt is not None:
            with reported("the prompt cannot be tokenised"):
                ids = cls._ids(tokenizer, prompt, settings.frames * cls.visual_tokens(config))
            check_rows(len(ids), text.max_position_embeddings, prompt)
        model = cls._build(config, device, precision, attention)
        building.fill_from(model, read_tensors(files), lambda name: keys.get(name, name), folder)
        return cls(
            settings,
            model=model,
            tokenizer=tokenizer,
            image_processor=image_processor,
            eos_ids=eos_ids,
            pad_id=pad_id(text),
            facts=ModelFacts.read_off(model, attention, source, checkpoint_hash(files), text.max_position_embeddings),
        )

    @classmethod
    def _read_tokenizer(cls, folder: Path, config: Any) -> Any:
        tokenizer = read_tokenizer(folder, config=config.text_config)
        check_vocabulary(tokenizer, config.text_config.vocab_size, folder, padded=True)
        token = getattr(config, cls.placeholder_key)
        if (found := tokenizer.get_vocab().get(cls.placeholder)) != token:
            raise UserError(
                f"{folder}: the tokenizer has {cls.placeholder} as {found}, "
                f"config.json says {cls.placeholder_key} {token}"
            )
        with reported(f"the tokenizer files in {folder} cannot be used"):
            placed = cls._ids(tokenizer, "", visual_tokens=2).count(token)
        if placed != 2:
            raise UserError(
                f"{folder}: the tokenizer makes {placed} ids of two {cls.placeholder} in a prompt, expected 2: "
                f"{cls.placeholder} must be a special token in its files"
            )
        return tokenizer

    @classmethod
    def _read_config(cls, content: Mapping[str, Any], folder: Path) -> Any:
        """The folder's config.json as transformers has it. Raises UserError with file and key for what cannot be."""
        where = f"{folder}/config.json"
        sections = {}
        for key, model_type in (("text_config", "llama"), ("vision_config", "clip_vision_model")):
            sections[key] = section_of(content, key, where)
            taken(sections[key], {"model_type": one_of(model_type)}, f"{where}: {key}")
        text = read_llama(sections["text_config"], f"{where}: text_config")
        vision = read_clip({**cls.published_tower, **sections["vision_config"]}, f"{where}: vision_config")
        depth = vision.num_hidden_layers
        layer = whole(-depth, -1)  # transformers counts them from the end; it takes 0 for none
        own = taken(
            content,
            {
                **dict.fromkeys(cls.token_keys, whole(0, text.vocab_size - 1)),
                "projector_hidden_act": ACTIVATION,
                "vision_feature_select_strategy": one_of("default", "full"),
                "vision_feature_layer": either(layer, each(layer)),
                "multimodal_projector_bias": FLAG,
                "tie_word_embeddings": FLAG,
            },
            where,
        )
        with reported(f"{where} describes no {cls.title} that can be built"):
            return getattr(transformers, cls.config_class)(text_config=text, vision_config=vision, **own)


def parameter_name(key: str) -> str:
    """A checkpoint's key → the parameter's name here; transformers has moved the parts three times."""
    key = re.sub(r"^(model\.)?(language_model\.)?lm_head\.", "lm_head.", key)
    key = re.sub(r"^(model\.)?language_model\.(model\.)?", "model.language_model.", key)
    key = re.sub(r"^(model\.)?(image_tower|video_tower|vision_tower)\.(vision_model\.)?", r"model.\2.", key)
    return re.sub(r"^(model\.)?multi_modal_projector\.", "model.multi_modal_projector.", key)
