"""EventGPT against the tensors that the published code computes (reference checkpoint A), all of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fourstage.data.events import Events, render_events
from fourstage.engines.eager import generation_config
from fourstage.models.eventgpt import EVENT_ID
from fourstage.models.eventgpt import Model as EventGPT
from fourstage.stages import Media, Sample, Sampling
from tests.settings import EVENTGPT, pretrained

pytestmark = pytest.mark.real
QUERIES = ("Describe in detail what happened in the scene.", "What is the person holding in their hands?")
GREEDY = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=24)


@pytest.fixture(scope="module")
def reference(shared: Path) -> Path:
    return shared / "reference" / "eventgpt"


@pytest.fixture(scope="module")
def checker(reference: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_reference", reference / "check_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(reference: Path, precision: str) -> EventGPT:
    return EventGPT.from_weights(EVENTGPT, pretrained(reference / "A" / "checkpoint"), "cpu", precision, "sdpa")


def array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.float().numpy()


def staged_tensors(pipeline: EventGPT, shared: Path) -> dict[str, Any]:
    """Everything from raw events to greedy ids, by the pipeline's own stages."""
    found: dict[str, Any] = {}
    model = pipeline.model
    hooks = []
    for name, module in (
        ("clip_last_hidden_state", model.visual_tower),
        ("projector_out", model.visual_projector),
        ("adaptor_out", model.feature_adaptor),
    ):

        def keep(_module: Any, _args: Any, out: Any, name: str = name) -> None:
            found[name] = array(out if isinstance(out, torch.Tensor) else out.last_hidden_state)

        hooks.append(module.register_forward_hook(keep))
    media = pipeline.load(Sample("sample1", "sample1", shared / "real", event_data="sample1.npy"))
    found |= {f"event_image_{i}": image for i, image in enumerate(media.images)}
    for q, query in enumerate(QUERIES):
        inputs = pipeline.preprocess([media], [query])
        features = pipeline.encode(inputs)
        with torch.inference_mode():
            embeds = pipeline.embed(inputs.input_ids[0], features.visual[0])
            prefill = model.language_model(inputs_embeds=embeds[None], output_hidden_states=True)
            settings = generation_config(GREEDY, pipeline.eos_ids, pipeline.pad_id)
            settings.return_dict_in_generate = settings.output_logits = True
            mask = torch.ones(1, len(embeds), dtype=torch.long)
            steps = model.language_model.generate(
                inputs_embeds=embeds[None], attention_mask=mask, generation_config=settings
            ).logits
        generation = pipeline.decode(inputs, features, GREEDY, lambda: None)
        found |= {
            "pixel_values": array(inputs.pixel_values),
            "spatio_temporal_tokens": array(features.visual[0]),
            f"q{q}_input_ids": inputs.input_ids[0].numpy(),
            f"q{q}_inputs_embeds": array(embeds),
            f"q{q}_prefill_hidden_states": np.stack([array(layer[0]) for layer in prefill.hidden_states]),
            f"q{q}_prefill_logits_last": array(prefill.logits[0, -1]),
            f"q{q}_step_logits": np.stack([array(step[0]) for step in steps]),
            f"q{q}_generated_ids": np.array(generation.token_ids[0]),
        }
    for hook in hooks:
        hook.remove()
    return found


def extra_tensors(pipeline: EventGPT, folder: Path) -> dict[str, Any]:
    """The side paths of the published code: three images, one bare image, truncation, a training batch."""
    given = dict(np.load(folder / "extras.npz"))
    model = pipeline.model
    found: dict[str, Any] = {}

    def ids_of(name: str) -> torch.Tensor:
        return torch.from_numpy(given[f"{name}_input_ids"])

    def logits(embeds: torch.Tensor) -> np.ndarray[Any, Any]:
        return array(model.language_model(inputs_embeds=embeds[None]).logits[0, -1])

    with torch.inference_mode():
        (three,) = model.encode(torch.from_numpy(given["t3_pixel_values"]), (3,))
        embeds = model.splice(ids_of("t3"), three)
        found |= {"t3_inputs_embeds": array(embeds), "t3_prefill_logits_last": logits(embeds)}

        hidden = model.visual_tower(torch.from_numpy(given["single_pixel_values"])).last_hidden_state
        found["single_inputs_embeds"] = array(model.splice(ids_of("single"), model.visual_projector(hidden)[0]))

        first = torch.from_numpy(given["batch_pixel_values"][0])
        (events,) = model.encode(first, (len(first),))
        text = pipeline.tokenizer.decode(given["long_input_ids"][given["long_input_ids"] != EVENT_ID])
        query = text.partition("<ev_end>\n")[2].removesuffix(" ASSISTANT:")
        long_ids = pipeline.prompt_ids(query, images=5)
        embeds = model.splice(long_ids, events)
        found |= {
            "long_input_ids": long_ids.numpy(),
            "long_embeds_shape": np.array([1, *embeds.shape]),
            "long_embeds_last_row": array(embeds[-1]),
            "long_prefill_logits_last": logits(embeds),
        }
        found |= training_batch(pipeline, given)
    synthetic = np.load(folder / "synthetic_events_ref.npz")
    images = render_events(Events(*(synthetic[name] for name in "xytp")))
    media = Media(images, "npy", tuple(range(5)), 5, 0)
    found |= {f"syn_event_image_{i}": image for i, image in enumerate(images)}
    found["syn_pixel_values"] = array(pipeline.preprocess([media], [QUERIES[0]]).pixel_values)
    return found


def training_batch(pipeline: EventGPT, given: dict[str, Any]) -> dict[str, Any]:
    """Two samples, right-padded, with labels: what the published training step feeds its language model."""
    model = pipeline.model
    rows, labels = [], []
    for ids, mask, label, pixels in zip(
        given["batch_input_ids"], given["batch_attention_mask"], given["batch_labels"], given["batch_pixel_values"],
        strict=True,
    ):  # fmt: skip
        kept = mask.astype(bool)
        ids, label = torch.from_numpy(ids[kept]), torch.from_numpy(label[kept])
        (events,) = model.encode(torch.from_numpy(pixels), (len(pixels),))
        place = int((ids == EVENT_ID).nonzero()[0])
        rows.append(model.splice(ids, events))
        labels.append(torch.cat([label[:place], torch.full((len(events),), -100), label[place + 1 :]]))
    embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    mask = torch.tensor([[i < len(row) for i in range(embeds.shape[1])] for row in rows])
    out = model.language_model(inputs_embeds=embeds, attention_mask=mask, labels=padded)
    return {
        "batch_out_inputs_embeds": array(embeds),
        "batch_out_attention_mask": mask.long().numpy(),
        "batch_out_labels": padded.numpy(),
        "batch_out_loss": array(out.loss),
        "batch_out_logits_row0_last_valid": array(out.logits[0, len(rows[0]) - 1]),
        "batch_out_logits_row1_last_valid": array(out.logits[1, len(rows[1]) - 1]),
    }


def test_every_tensor_of_the_reference_is_reproduced_in_fp32(
    shared: Path, reference: Path, checker: ModuleType
) -> None:
    pipeline = load(reference, "fp32")
    found = staged_tensors(pipeline, shared) | extra_tensors(pipeline, reference / "A")
    for q in (0, 1):  # transformers 4.37's generate() puts a begin token that is never fed before the new ids
        found[f"q{q}_generated_ids_raw"] = np.array([1, *found[f"q{q}_generated_ids"]])
    ok, rows = checker.check(str(reference / "A"), found)
    assert ok
    assert [name for name, verdict, _ in rows if verdict != "ok"] == []


def test_bf16_is_as_near_to_fp32_as_the_published_code_in_bf16(
    shared: Path, reference: Path, checker: ModuleType
) -> None:
    ok, rows = checker.check(str(reference / "A"), staged_tensors(load(reference, "bf16"), shared), bf16=True)
    assert ok
    assert sum(verdict == "ok" for _, verdict, _ in rows) >= 15
