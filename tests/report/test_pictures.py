"""A report's pictures are of the data that the runs read, or they are not there and it is told why."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from fourstage.data.dataset import dataset_digest, read_dataset
from fourstage.data.formats.demo import JSON_NAME, DemoSettings, make_demo
from fourstage.report.pictures import HEIGHT, places, read_pictures

E = {
    "model.name": "eventgpt",
    "model.source": "auto",
    "model.event_images": "5",
    "dataset.name": "demo",
    "dataset.limit": "None",
}
V = {"model.name": "videollava", "model.source": "mp4", "model.frames": "4", "model.frame_rule": "linspace"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_demo(tmp_path, DemoSettings(samples=2, seconds=0.4, width=160, height=120, fps=10, seed=0))


def test_each_models_pictures_are_small_pngs_of_what_it_saw(root: Path) -> None:
    samples = read_dataset(root, JSON_NAME)
    digest = dataset_digest(samples)
    pictures, note = read_pictures([(E, digest), (V, digest)], [samples[0].key, "unknown"], [root])
    assert (note, set(pictures)) == ("", {samples[0].key})
    kinds = pictures[samples[0].key]
    assert {kind: len(of_kind) for kind, of_kind in kinds.items()} == {"event images": 5, "frames": 4}
    with Image.open(BytesIO(kinds["frames"][0])) as picture:
        assert (picture.format, picture.height) == ("PNG", HEIGHT)


def test_data_that_is_gone_or_has_changed_gives_no_pictures_and_a_reason(root: Path, tmp_path: Path) -> None:
    for roots, digest, reason in (
        ([tmp_path / "moved"], "x", f"{tmp_path / 'moved'} is not there"),
        ([], "x", "do not say where their data lay"),
        ([root], "another", "is another one by now"),
        ([tmp_path], "x", "no dataset file"),
    ):
        pictures, note = read_pictures([(E, digest)], ["a"], roots)
        assert pictures == {}
        assert reason in note


def test_a_picture_that_cannot_be_read_is_told_and_the_others_are_there(root: Path) -> None:
    samples = read_dataset(root, JSON_NAME)
    digest = dataset_digest(samples)
    wrong = V | {"model.frame_rule": "unknown"}
    pictures, note = read_pictures([(E, digest), (wrong, digest)], [samples[0].key], [root])
    assert set(pictures[samples[0].key]) == {"event images"}
    assert note.startswith("some pictures are missing: ")


def test_a_relative_folder_is_looked_for_here_and_beside_the_store(tmp_path: Path) -> None:
    assert list(places("data/x", [tmp_path])) == [Path("data/x"), tmp_path / "data/x"]
    assert list(places("", [tmp_path])) == []
