"""What flows between the stages, read from the tensors of one real sample.

Times come from a pass without hooks, after a warm-up; the inner tensors from one more pass.

    inspection = inspect(config, sample="demo_day_00/000000.npy")
    print_table(inspection)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourstage.config.schema import Config
from fourstage.config.values import SettingError, suggest
from fourstage.paths import kind_of, path_of, shortened
from fourstage.stages import STAGES, Features, Generation, Inputs, Media, UserError
from fourstage.text import markdown_cell

if TYPE_CHECKING:
    from fourstage.measure.clock import Stopwatch
    from fourstage.models.base import StagedPipeline


@dataclass(frozen=True)
class Row:
    """One value that enters or leaves a stage."""

    stage: str
    name: str
    shape: str
    dtype: str
    device: str
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """A sample's way through the stages, and what was counted on it."""

    title: str
    stage_s: dict[str, float]
    rows: list[Row]
    counts: dict[str, str]
    tensors: dict[str, Any]  # name → numpy array


def inspect(config: Config, sample: str = "", media: str = "") -> Inspection:
    """Take one sample through the stages and write down what flowed. Raises UserError."""
    from fourstage.measure.clock import Stopwatch
    from fourstage.measure.warm_up import WARMUP_TOKENS
    from fourstage.models.device import TorchDevice
    from fourstage.models.load import load_pipeline

    read, question, what = _choose(config, sample, path_of(media, "media") if media else None)
    pipeline = load_pipeline(config)
    device = TorchDevice(pipeline.facts.device)

    def go(tokens: int) -> tuple[Stopwatch, Media, Inputs, Features, Generation]:
        watch = Stopwatch(device, time.perf_counter)
        device.seed(config.seed)
        with watch.stage("load"):
            loaded = _load(read, pipeline, what)
        with watch.stage("preprocess"):
            inputs = pipeline.preprocess([loaded], [question])
        with watch.stage("encode"):
            features = pipeline.encode(inputs)
        with watch.stage("decode"):
            generation = pipeline.decode(inputs, features, replace(config.sampling, max_new_tokens=tokens), watch.tick)
        return watch, loaded, inputs, features, generation

    go(min(WARMUP_TOKENS, config.max_new_tokens))
    watch, loaded, inputs, features, generation = go(config.max_new_tokens)
    return _describe(config, pipeline, what, watch, loaded, inputs, features, generation)


def print_table(inspection: Inspection) -> None:
    """The inspection on the screen, stage by stage."""
    from rich import box
    from rich.table import Table

    from fourstage.records.units import seconds
    from fourstage.screen import console, shown

    screen = console()
    screen.print(shown(inspection.title))
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("stage", "tensor", "shape", "dtype", "device", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left", no_wrap=True)
    for stage in STAGES:
        rows = [row for row in inspection.rows if row.stage == stage]
        for i, row in enumerate(rows):
            label = f"{stage}  {seconds(inspection.stage_s[stage])}" if i == 0 else ""
            table.add_row(label, row.name, row.shape, row.dtype, row.device, f"{row.bytes:,}")
        table.add_section()
    screen.print(table)
    for name, value in inspection.counts.items():
        screen.print(f"{name:>22}  {shown(value)}")


def print_markdown(inspection: Inspection) -> None:
    """The inspection as a document."""
    from fourstage.records.units import seconds

    print(f"# {markdown_cell(inspection.title)}\n")
    for stage in STAGES:
        print(f"## {stage}: {seconds(inspection.stage_s[stage])}\n")
        print("| tensor | shape | dtype | device | bytes |\n|---|---|---|---|---:|")
        for row in inspection.rows:
            if row.stage == stage:
                print(f"| `{row.name}` | {row.shape} | {row.dtype} | {row.device} | {row.bytes:,} |")
        print()
    print("## Counts\n\n| | |\n|---|---|")
    for name, value in inspection.counts.items():
        print(f"| {name} | {markdown_cell(value)} |")


def _load(read: Callable[[StagedPipeline], Media], pipeline: StagedPipeline, what: str) -> Media:
    """Stage 1. Raises UserError for whatever the sample's own data raises."""
    try:
        return read(pipeline)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{shortened(what)} cannot be read: {type(error).__name__}: {error}") from error


def _choose(config: Config, sample: str, media: Path | None) -> tuple[Any, str, str]:
    """How to read the media, the question, and what to call it."""
    from fourstage.data.samples import read_samples
    from fourstage.measure.protocol import question_of
    from fourstage.screen import sample_name

    if media is not None:
        if sample:
            raise SettingError("give sample= (of a dataset) or media= (a file), not both")
        if not media.exists():
            raise SettingError(f"media={media}: there is no such file or folder")
        if not media.is_file() and not media.is_dir():
            raise SettingError(f"media={media} is {kind_of(media)}; expected a file or a folder")
        most = config.dataset.max_sample_bytes
        return (lambda pipeline: pipeline.load_file(media, most)), config.prompt or config.dataset.question, media.name
    samples = read_samples(config.dataset)
    names = [name for entry in samples for name in (entry.id, entry.key)]
    if sample and sample not in names:
        raise SettingError(f"no sample {sample!r} in {samples[0].root}; {suggest(sample, names[:20])}")
    chosen = next((entry for entry in samples if sample in (entry.id, entry.key)), samples[0])
    name = chosen.key if sample == chosen.key else sample_name(chosen.id, chosen.key)
    return (lambda pipeline: pipeline.load(chosen)), question_of(chosen, config), name


def _describe(
    config: Config,
    pipeline: StagedPipeline,
    what: str,
    watch: Stopwatch,
    media: Media,
    inputs: Inputs,
    features: Features,
    generation: Generation,
) -> Inspection:
    """Rows, counts and tensors of a sample that went through."""
    import torch

    from fourstage.records.units import seconds

    named: list[tuple[str, str, Any]] = []  # stage, name, tensor or array
    named += [("load", f"{pipeline.image_name}_{i}", image) for i, image in enumerate(media.images)]
    named += [("preprocess", name, pixels) for name, pixels in pipeline.media_inputs(inputs.pixel_values).items()]
    named.append(("preprocess", "input_ids", inputs.input_ids[0]))
    with _outputs(pipeline) as inner:
        pipeline.encode(inputs)
    named += [("encode", name, tensor) for name, tensor in inner.items()]
    visual = features.visual[0]
    named.append(("encode", pipeline.visual_name, visual))
    with torch.inference_mode():
        embeds = pipeline.embed(inputs.input_ids[0], visual)
        prefill = pipeline.generator(inputs_embeds=embeds[None], use_cache=True)
    named.append(("decode", "inputs_embeds", embeds))
    named.append(("decode", "prefill_logits_last", prefill.logits[0, -1]))
    named.append(("decode", "generated_ids", torch.tensor(generation.token_ids[0])))
    layers = [tensor for layer in prefill.past_key_values.layers for tensor in (layer.keys, layer.values)]
    cache_bytes = sum(tensor.nbytes for tensor in layers)
    steps = [later - earlier for earlier, later in zip(watch.token_at, watch.token_at[1:], strict=False)]
    counts = {
        "source": f"{media.source}, {media.bytes_read:,} bytes on disk, {media.clip_length} in the clip",
        "images": f"{len(media.images)} (numbers {', '.join(map(str, media.indices))})",
        **({"notes": "; ".join(notes)} if (notes := media.all_notes()) else {}),
        "patches per image": str(pipeline.patches_per_image),
        "visual tokens": str(len(visual)),
        "text tokens": str(generation.text_tokens[0]),
        "prompt rows": str(len(embeds)),
        "generated tokens": f"{len(generation.token_ids[0])} ({generation.finish_reasons[0]})",
        "KV cache": f"{cache_bytes:,} bytes after prefill, {cache_bytes // len(embeds):,} a token",
        "prefill": seconds(watch.token_at[0] - watch.stage_at["decode"]),
        "time per token": seconds(sum(steps) / len(steps)) if steps else "one token only",
        "prompt": inputs.prompts[0],
        "output": generation.texts[0],
    }
    facts = pipeline.facts
    title = (
        f"{facts.architecture}, {facts.parameters:,} parameters, {facts.dtype} on {facts.device}: {what} "
        f"through four stages"
    )
    rows = [_row(stage, name, value) for stage, name, value in named]
    return Inspection(title, watch.stage_s, rows, counts, {name: _array(value) for _, name, value in named})


@contextmanager
def _outputs(pipeline: StagedPipeline) -> Iterator[dict[str, Any]]:
    """Outputs of the inner modules of stage 3, filled while the block runs."""
    found: dict[str, Any] = {}
    hooks = []
    for name, module in pipeline.inner_modules().items():

        def keep(_module: Any, _args: Any, out: Any, name: str = name) -> None:
            found[name] = getattr(out, "last_hidden_state", out)

        hooks.append(module.register_forward_hook(keep))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _row(stage: str, name: str, value: Any) -> Row:
    shape = " x ".join(map(str, value.shape)) or "scalar"
    device = str(getattr(value, "device", "cpu"))
    return Row(stage, name, shape, str(value.dtype).removeprefix("torch."), device, value.nbytes)


def _array(value: Any) -> Any:
    """A numpy array; bf16, which numpy does not have, becomes float32 without loss."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    return (value.float() if value.is_floating_point() else value).cpu().numpy()


def save_tensors(path: Path, tensors: dict[str, Any]) -> None:
    """Write named arrays into an .npz file. Raises UserError where it cannot be written."""
    import numpy as np

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **tensors)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
