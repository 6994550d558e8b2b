"""What the pipelines share: the four stages around a model that differs in its reading, its prompt and its tower.

A subclass defines how its weights are loaded (`from_weights`), how a question becomes token ids with placeholders for
the media (`prompt_ids`), how pixels become features (`visual_features`) and how the two are joined (`embed`); its
settings define how a sample is read. The rest, from CLIP preprocessing to left padding and detokenising, is here. The
clock is not: see `measure/loop.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fourstage.config.schema import Config, ModelSettings, PretrainedWeights, Weights
from fourstage.engines import Engine, Vision, eager
from fourstage.lazy import lazy
from fourstage.models.checkpoint_files import check_hub_id
from fourstage.models.quantised import stored_bytes
from fourstage.models.reading import is_panic, local_folder
from fourstage.models.shapes import Shapes, shapes_of
from fourstage.stages import Features, Generation, Inputs, Media, OnToken, Sample, SampleError, Sampling, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fourstage.engines import agreement
    from fourstage.engines.agreement import Divergence
else:
    agreement = lazy("fourstage.engines.agreement")
    torch = lazy("torch")


@dataclass(frozen=True)
class ModelFacts:
    """What a run records of its model, read off the loaded parameters."""

    architecture: str
    checkpoint: str  # where the parameters came from
    checkpoint_hash: str
    parameters: int
    parameter_bytes: int
    dtype: str
    device: str
    attention: str
    context: int  # rows that a prompt with its media must stay below
    quantisation: str = "none"  # of the language model's linear layers: int8, int4

    @classmethod
    def read_off(
        cls, model: nn.Module, attention: str, checkpoint: str, checkpoint_hash: str, context: int
    ) -> ModelFacts:
        """The facts of a loaded model."""
        parameters = list(model.parameters())
        return cls(
            architecture=type(model).__name__,
            checkpoint=checkpoint,
            checkpoint_hash=checkpoint_hash,
            parameters=sum(parameter.numel() for parameter in parameters),
            parameter_bytes=sum(stored_bytes(parameter) for parameter in parameters),
            dtype=str(parameters[0].dtype).removeprefix("torch."),
            device=str(parameters[0].device),
            attention=attention,
            context=context,
        )

    def quantised(self, model: nn.Module, precision: str) -> ModelFacts:
        """The facts after the language model was quantised, where `precision` asks for it."""
        if precision not in ("int8", "int4"):
            return self
        size = sum(stored_bytes(parameter) for parameter in model.parameters())
        return replace(self, parameter_bytes=size, quantisation=precision)


class StagedPipeline(ABC):
    """A model in four stages (see `stages.Pipeline`)."""

    placeholder: ClassVar[str]  # marks the media's position in the prompt's text
    image_name: ClassVar[str] = "frame"  # what `fourstage.inspect` calls an image,
    visual_name: ClassVar[str] = "visual_tokens"  # and what stage 3 makes of them

    def __init__(
        self,
        settings: Any,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        eos_ids: tuple[int, ...],
        pad_id: int,
        facts: ModelFacts,
    ):
        self.settings = settings
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.eos_ids, self.pad_id = eos_ids, pad_id
        self.facts = facts
        self.engine: Engine = eager.Engine(eager.Settings())
        self.vision_calls = 0
        self._tower: nn.Module | None = None  # whose calls are counted

    @classmethod
    @abstractmethod
    def from_weights(
        cls,
        settings: Any,
        weights: Weights,
        device: str,
        precision: str,
        attention: str,
        prompt: str | None = None,
    ) -> StagedPipeline:
        """The model with the chosen weights on `device`, ready to measure.

        `precision` is fp32, bf16 or fp16; `attention` is transformers' implementation. Raises UserError where the
        weights do not fit, and where `prompt` is longer than the context, before tensors are read.
        """

    @classmethod
    def preflight(cls, config: Config) -> None:
        """Raise UserError for what cannot work, before a run is tracked and a model is loaded."""
        weights = config.weights
        path = weights.path if isinstance(weights, PretrainedWeights) else None
        if path and not local_folder(path, "weights.path").is_dir():
            check_hub_id(path)
        if config.prompt is not None and cls.placeholder in config.prompt:
            raise UserError(f"the prompt holds {cls.placeholder}, which marks where the media go: leave it out")

    @classmethod
    def asked_parameters(cls, weights: Weights) -> int | None:
        """How many parameters the model has that the settings name, without reading what was loaded. None where a
        checkpoint says it: its tensors were compared with the model's when it was loaded."""
        return None

    def use(self, settings: ModelSettings) -> None:
        """Read other files, or another number of images, with the same loaded model."""
        self.settings = settings

    def load(self, sample: Sample) -> Media:
        media: Media = self.settings.read(sample)
        return media

    def load_file(self, path: Path, max_bytes: int) -> Media:
        """Stage 1 on one file or folder outside a dataset, within `max_bytes` decoded."""
        media: Media = self.settings.read_file(path, max_bytes)
        return media

    def files(self, sample: Sample) -> list[Path]:
        """What `load` would read of this sample."""
        files: list[Path] = self.settings.files(sample)
        return files

    @abstractmethod
    def prompt(self, question: str) -> str:
        """The text around a question, with the placeholder where the media go."""

    @abstractmethod
    def prompt_ids(self, question: str, images: int) -> Tensor:
        """Token ids [tokens] of the prompt with placeholder ids for `images` images, int64 on the host."""

    @abstractmethod
    def visual_features(self, pixel_values: Tensor, images_per_sample: tuple[int, ...]) -> tuple[Tensor, ...]:
        """Per sample [visual tokens, hidden], from [images, 3, size, size] in one call of the tower."""

    @abstractmethod
    def embed(self, input_ids: Tensor, visual: Tensor) -> Tensor:
        """[rows, hidden]: the prompt's embeddings with the visual tokens in their place."""

    @abstractmethod
    def rows(self, input_ids: Tensor, images: int) -> int:
        """How many rows a prompt with its media fills, from its ids with placeholders."""

    @property
    @abstractmethod
    def patches_per_image(self) -> int:
        """Patches that the tower cuts an image into, without CLS."""

    @abstractmethod
    def inner_modules(self) -> dict[str, nn.Module]:
        """The parts of stage 3 whose outputs have names of their own, in order."""

    @property
    @abstractmethod
    def generator(self) -> Any:
        """The module whose `generate()` and `forward()` take `inputs_embeds`."""

    @abstractmethod
    def own_generate(self, input_ids: Tensor, pixel_values: Tensor, settings: Any) -> list[int]:
        """New ids of one prompt by the model's own `generate()`, from pixels."""

    def media_inputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """One sample's pixels under the name and in the shape that the model's own `generate()` takes."""
        return {"pixel_values": pixel_values}

    def shapes(self) -> Shapes:
        """The model's sizes, for the roofline; here of a model whose parts are named as in transformers' LLaVA.

        Raises TypeError or AttributeError for another one: then a run has no shares of the device's limits.
        """
        inner = getattr(self.model, "model", None)
        tower = getattr(inner, "video_tower", None) or getattr(inner, "vision_tower", None)
        if inner is None or tower is None:
            raise TypeError(f"{type(self).__name__} has no shapes: define shapes() in its file")
        head = self.generator.get_output_embeddings()
        return shapes_of(tower, inner.multi_modal_projector, inner.language_model, head)

    def check_question(self, question: str, images: int) -> None:
        """Raise SampleError for a question that cannot be asked: too long, or holding the placeholder itself."""
        self._checked_ids(question, images)

    def preprocess(self, media: Sequence[Media], questions: Sequence[str]) -> Inputs:
        return self.inputs(self.pixels(media), media, questions)

    def pixels(self, media: Sequence[Media]) -> Tensor:
        """The images' part of `preprocess`: [images of all samples, 3, S, S] in the run's dtype, on the device."""
        images = [image for item in media for image in item.images]
        pixels = self.image_processor(images=images, return_tensors="pt", input_data_format="channels_last")
        parameter = next(self.model.parameters())
        values: Tensor = pixels["pixel_values"]
        return values.to(parameter.device, parameter.dtype)

    def inputs(self, pixel_values: Tensor, media: Sequence[Media], questions: Sequence[str]) -> Inputs:
        """The questions' part of `preprocess`: tokens beside pixels that are ready."""
        return Inputs(
            pixel_values=pixel_values,
            images_per_sample=tuple(len(item.images) for item in media),
            input_ids=tuple(
                self._checked_ids(question, len(item.images)).to(pixel_values.device)
                for item, question in zip(media, questions, strict=True)
            ),
            prompts=tuple(self.prompt(question) for question in questions),
        )

    def encode(self, inputs: Inputs) -> Features:
        with torch.inference_mode():
            return Features(self.engine.encode(self._vision, inputs.pixel_values, inputs.images_per_sample))

    def decode(self, inputs: Inputs, features: Features, sampling: Sampling, on_token: OnToken) -> Generation:
        with torch.inference_mode():
            rows, embeds, mask = self._embedded(inputs, features)
            ids = self.engine.generate(self.generator, embeds, mask, sampling, self.eos_ids, self.pad_id, on_token)
        token_ids = tuple(self._until_end(row, sampling) for row in ids.tolist())
        return Generation(
            token_ids=token_ids,
            texts=tuple(self.detokenise(row) for row in token_ids),
            finish_reasons=tuple(
                "stop" if sampling.stop == "natural" and row and row[-1] in self.eos_ids else "length"
                for row in token_ids
            ),
            text_tokens=tuple(len(row) - len(visual) for row, visual in zip(rows, features.visual, strict=True)),
            visual_tokens=tuple(len(visual) for visual in features.visual),
        )

    def unstaged(self, inputs: Inputs, sampling: Sampling) -> tuple[tuple[int, ...], ...]:
        (input_ids,) = inputs.input_ids
        settings = eager.generation_config(sampling, self.eos_ids, self.pad_id)
        with torch.inference_mode():
            row = self.own_generate(input_ids, inputs.pixel_values, settings)
        return (self._until_end(row, sampling),)

    def prepare(self, questions: Sequence[str], batches: Sequence[int], sampling: Sampling) -> None:
        """Let the engine capture or compile, ahead of the measurement, what these questions will ask for.

        `batches`: the sizes of the batches to come.
        """
        images = self.settings.image_count
        rows = Counter[int]()
        for question, count in Counter(questions).items():
            with suppress(SampleError):  # goes on the record of its sample
                rows[self.rows(self._checked_ids(question, images), images)] += count
        self.engine.prepare(self.generator, sampling, batches, [length for length, _ in rows.most_common()])
        size = getattr(getattr(self._tower, "config", None), "image_size", None)
        if isinstance(size, int):
            parameter = next(self.model.parameters())
            for batch in batches:
                pixels = parameter.new_zeros(batch * images, 3, size, size)
                self.engine.prepare_encode(self._vision, pixels, (images,) * batch)

    def logits(self, inputs: Inputs, ids: Sequence[int], engine: Engine | None = None) -> Tensor | None:
        """Logits [1, steps, V] of one prompt when its answer is `ids`, by the pipeline's engine or another one.

        None: the engine does not expose them.
        """
        with torch.inference_mode():
            _, embeds, mask = self._embedded(inputs, self.encode(inputs))
            return (engine or self.engine).logits(self.generator, embeds, mask, torch.tensor([ids]))

    def divergence(self, inputs: Inputs, own: Sequence[int], other: Sequence[int], tie: float = 0) -> Divergence | None:
        """What parts two greedy answers to one prompt: `own` by transformers' loop, `other` by this pipeline's engine.

        Both compute their logits with the tokens of `own` forced. None: one answer is the other's beginning, or the
        engine does not expose its logits. `tie`: a margin that is a near-tie whatever the noise, as a share of the
        largest logit.
        """
        if (step := first_difference(own, other)) >= min(len(own), len(other)):
            return None
        theirs = self.logits(inputs, own[: step + 1], eager.Engine(eager.Settings()))
        ours = self.logits(inputs, own[: step + 1])
        if theirs is None or ours is None:
            return None
        dtype = inputs.pixel_values.dtype
        return agreement.divergence(step, theirs[0, step], ours[0, step], own[step], other[step], dtype, tie)

    def detokenise(self, token_ids: Sequence[int]) -> str:
        """The answer's text, without special tokens and outer white space."""
        with panics_reported():
            return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def count_vision_calls(self, tower: nn.Module) -> None:
        """Count at the tower itself, so that a second encoding anywhere shows."""

        self._tower = tower
        tower.register_forward_pre_hook(lambda *_: self._count(1))

    @property
    def _vision(self) -> Vision:
        assert self._tower is not None, "a model calls count_vision_calls when it is made"
        return Vision(self.visual_features, self._tower, self._count)

    def _count(self, calls: int) -> None:
        self.vision_calls += calls

    def _embedded(self, inputs: Inputs, features: Features) -> tuple[list[Tensor], Tensor, Tensor]:
        """Each sample's embeddings [rows, hidden], and all of them left-padded with their mask."""
        rows = [self.embed(ids, visual) for ids, visual in zip(inputs.input_ids, features.visual, strict=True)]
        return rows, *left_pad(rows)

    def _checked_ids(self, question: str, images: int) -> Tensor:
        """The prompt's ids; raises SampleError for a question that cannot be asked."""
        if self.placeholder in question:
            raise SampleError(f"the question {question!r} holds {self.placeholder}, which marks where the media go")
        with panics_reported():
            ids = self.prompt_ids(question, images)
        check_rows(self.rows(ids, images), self.facts.context, question)
        return ids

    def _until_end(self, row: list[int], sampling: Sampling) -> tuple[int, ...]:
        """The ids up to and with the first end token; what follows is the batch's padding."""
        if sampling.stop == "natural":
            for i, token in enumerate(row):
                if token in self.eos_ids:
                    return tuple(row[: i + 1])
        return tuple(row)


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """The index at which two answers part; the shorter one's length where it is the beginning of the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (first, second) in pairs if first != second), min(len(one), len(other)))


@contextmanager
def panics_reported() -> Iterator[None]:
    """A panic of the tokenizer's library as a SampleError: it is no Exception, and would end the run."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise SampleError(f"the tokenizer's library cannot process this text ({error})") from error


def patches(vision: Any) -> int:
    """Patches of an image, from a CLIP vision config."""
    return int(vision.image_size // vision.patch_size) ** 2


def check_rows(rows: int, context: int, question: str) -> None:
    """Raise SampleError where a prompt with its media does not fit into the model's context."""
    if rows >= context:
        raise SampleError(
            f"prompt and media have {rows} tokens, the model's context ends at {context}: "
            f"ask a shorter question (it begins {question[:40]!r})"
        )


def left_pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings [rows, hidden] of several lengths as [batch, longest, hidden] and their mask [batch, longest]."""
    longest = max(len(row) for row in rows)
    embeds = torch.stack([torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
    mask = (torch.arange(longest, device=embeds.device) >= (longest - lengths)[:, None]).long()
    return embeds, mask
