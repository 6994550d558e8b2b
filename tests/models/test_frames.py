"""Models that read frames take event images as well, the same that EventGPT sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fourstage.data.formats.demo import DemoSettings, make_demo
from fourstage.data.formats.eventgpt_json import Settings as Dataset
from fourstage.data.samples import read_samples
from fourstage.models import eventgpt, videollava
from fourstage.stages import Sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    root = make_demo(tmp_path_factory.mktemp("demo"), DemoSettings(samples=1, seconds=0.4, width=96, height=64))
    return read_samples(Dataset(name="eventgpt_json", root=str(root)))[0]


@pytest.mark.parametrize("source", ["png", "npy"])
def test_videollava_reads_the_event_images_that_eventgpt_reads(sample: Sample, source: str) -> None:
    settings = replace(videollava.Settings(), source=source, frames=5)  # type: ignore[arg-type]
    found, expected = settings.read(sample), replace(eventgpt.Settings(), source=source).read(sample)  # type: ignore[arg-type]
    assert (found.source, found.notes) == (source, expected.notes) == (source, ())
    assert all(np.array_equal(one, other) for one, other in zip(found.images, expected.images, strict=True))
    assert settings.media_sources == (source,)
    folder = {"png": "event_image", "npy": "event_npy"}[source]
    assert {path.relative_to(sample.root).parts[0] for path in settings.files(sample)} == {folder}
    outside: Path = settings.files(sample)[0]
    assert settings.read_file(outside, 2**30).source == source


def test_a_number_of_event_images_other_than_listed_is_noted(sample: Sample) -> None:
    assert replace(videollava.Settings(), source="png").read(sample).notes == ("5 event images listed, 8 expected",)
    assert len(replace(videollava.Settings(), source="npy").read(sample).images) == 8
