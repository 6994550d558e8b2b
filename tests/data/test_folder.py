"""Any folder and any list of files as a dataset: what is found, under which key, with which question."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourstage.data import media
from fourstage.data.dataset import dataset_digest
from fourstage.data.formats import folder, jsonl
from fourstage.data.questions import asked, read_questions
from fourstage.data.samples import read_samples
from fourstage.stages import Sample, SampleError, UserError
from tests.data.conftest import MakeMp4

QUESTION = "Which way does it go?\nA. left\nB. right\nAnswer with the letter of the correct option."


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


def events(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(10)
    np.save(path, np.array({"x": t, "y": t, "t": t, "p": t % 2}, dtype=object), allow_pickle=True)


@pytest.fixture
def root(tmp_path: Path, make_mp4: MakeMp4) -> Path:
    """Clips, a folder of frames, single pictures, events, and what is none of these."""
    root = tmp_path / "mine"
    for i in range(3):
        picture(root / f"walk/frames/{i}.png", i * 10)
    picture(root / "walk/.hidden.png")
    picture(root / "pets/cat.jpg")
    picture(root / "pets/dog.jpg")
    events(root / "events/a.npy")
    make_mp4(root / "drive/clip_10.mp4", 4)
    make_mp4(root / "drive/clip_2.mp4", 4)
    (root / "notes.txt").write_text("nothing")
    (root / ".cache").mkdir()
    picture(root / ".cache/thumb.png")
    return root


def read(root: Path, **settings: object) -> list[Sample]:
    return read_samples(folder.Settings(name="folder", root=str(root), **settings))  # type: ignore[arg-type]


def test_files_are_found_recursively_and_keyed_by_their_paths_in_numbered_order(root: Path) -> None:
    keys = [sample.key for sample in read(root)]
    assert keys == [
        "drive/clip_2.mp4",
        "drive/clip_10.mp4",
        "events/a.npy",
        "pets/cat.jpg",
        "pets/dog.jpg",
        "walk/frames",
    ]


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"media": "clips"}, ["drive/clip_2.mp4", "drive/clip_10.mp4"]),
        ({"media": "frames"}, ["walk/frames"]),
        ({"media": "events"}, ["events/a.npy"]),
        ({"media": "images", "images": "single"},
         ["pets/cat.jpg", "pets/dog.jpg", "walk/frames/0.png", "walk/frames/1.png", "walk/frames/2.png"]),
        ({"media": "frames", "images": "frames"}, ["pets", "walk/frames"]),
        ({"media": "images", "limit": 1}, ["pets/cat.jpg"]),
        ({"only": ("drive/*",), "limit": 1}, ["drive/clip_2.mp4"]),
        ({"exclude": ("drive/*", "pets/???.jpg", "walk/frames")}, ["events/a.npy"]),
    ],
)  # fmt: skip
def test_kinds_limits_and_patterns_choose_among_them(root: Path, settings: dict[str, object], keys: list[str]) -> None:
    assert [sample.key for sample in read(root, **settings)] == keys


def test_a_pattern_without_a_match_is_an_error_that_names_what_is_near(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"dataset\.exclude='drive/clip_3\.mp4' matches no sample; did you mean 'drive/"
    ):
        read(root, exclude=("drive/clip_3.mp4",))
    with pytest.raises(UserError, match="leave no sample"):
        read(root, only=("pets/*",), exclude=("*.jpg",))


def test_a_table_asks_and_answers_and_two_rows_of_a_file_are_two_samples(root: Path) -> None:
    (root / "questions.csv").write_text(
        "file,question,answer,options\n"
        "drive/clip_2.mp4,Which way does it go?,left,left | right\n"
        'drive/clip_2.mp4,"Fast, or slow?",slow,\n'
        "./walk/frames/,,,\n"
    )
    found = {sample.key: sample for sample in read(root)}
    assert list(found)[:3] == ["drive/clip_2.mp4", "drive/clip_2.mp4#2", "drive/clip_10.mp4"]
    first = found["drive/clip_2.mp4"]
    assert (first.question, first.reference, first.extra) == (QUESTION, "left", {"options": ["left", "right"]})
    assert found["drive/clip_2.mp4#2"].question == "Fast, or slow?"
    assert found["walk/frames"].question == ""  # the dataset's own is asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question\nwhat?\n", "has the columns question; expected file"),
        (
            "file,question\ndrive/clip_3.mp4,what?\n",
            r"line 2: 'drive/clip_3.mp4' is not in .*; did you mean 'drive/clip_2",
        ),
        ("file,question\npets,what?\n", "line 2: 'pets' is no sample under dataset.images=auto"),
        ("file,question\ndrive/clip_2.mp4\n", "line 2 has another number of values"),
        ("file,options\ndrive/clip_2.mp4,left\n", "line 2: 1 'options', expected 2 to 26"),
        ("file,options\ndrive/clip_2.mp4,left|left\n", "line 2: 2 'options', expected 2 to 26 different"),
        ("file,file\na,b\n", "two columns of one name"),
        ('file,question\n"a', "is not CSV that can be read"),
    ],
)
def test_a_table_that_cannot_be_read_names_its_line(root: Path, text: str, message: str) -> None:
    (root / "questions.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read(root)


def test_a_folder_without_media_and_one_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no clip, picture or event file in .* \(\.mp4"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"does not exist; set dataset.root"):
        read(tmp_path / "nowhere")


def test_each_kind_is_read_by_the_models_that_see_it(root: Path) -> None:
    found = {sample.key: sample for sample in read(root)}
    clip = media.read_video_frames(found["drive/clip_2.mp4"], frames=4)
    assert (clip.source, clip.indices) == ("mp4", (0, 1, 2, 3))
    frames = media.read_video_frames(found["walk/frames"], frames=3)
    assert [int(image[0, 0, 0]) for image in frames.images] == [0, 10, 20]
    single = media.read_video_frames(found["pets/cat.jpg"], frames=2)
    assert (single.source, single.clip_length, len(single.images)) == ("images", 1, 2)
    assert single.notes == ("1 frames repeated to 2",)
    rendered = media.read_event_images(found["events/a.npy"])
    assert (rendered.source, len(rendered.images)) == ("npy", 5)
    pngs = media.read_event_images(found["walk/frames"], images=3)
    assert (pngs.source, len(pngs.images), pngs.notes) == ("png", 3, ())
    assert media.event_files(found["walk/frames"]) == [root / f"walk/frames/{i}.png" for i in range(3)]
    assert media.video_files(found["drive/clip_2.mp4"]) == [root / "drive/clip_2.mp4"]


def test_media_that_a_model_does_not_read_are_an_error_of_their_sample(root: Path) -> None:
    found = {sample.key: sample for sample in read(root)}
    with pytest.raises(SampleError, match=r"a\.npy holds raw events, which this model does not read"):
        media.read_video_frames(found["events/a.npy"])
    with pytest.raises(SampleError, match=r"clip_2\.mp4 is a clip; set model\.source=mp4 if it shows event images"):
        media.read_event_images(found["drive/clip_2.mp4"])
    with pytest.raises(SampleError, match=r"read as images, model\.source=mp4 asks for another"):
        media.read_video_frames(found["walk/frames"], "mp4")
    (root / "drive/clip_2.mp4").unlink()
    with pytest.raises(SampleError, match="does not exist"):
        media.read_video_frames(found["drive/clip_2.mp4"])


def test_a_file_that_changed_makes_another_dataset(root: Path) -> None:
    before = dataset_digest(read(root))
    assert dataset_digest(read(root)) == before
    picture(root / "walk/frames/1.png", 99)
    assert dataset_digest(read(root)) != before


def test_a_list_takes_files_anywhere_and_the_keys_of_the_usual_layout(root: Path, tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"file": "mine/drive/clip_2.mp4", "question": "Which way does it go?", "answer": "left",
         "options": ["left", "right"], "split": "test"},
        {"id": 7, "event_data": "a/b.npy", "question": "What moves?", "answer": "A tram."},
        {"id": "x", "video_data": "v", "conversations": [{"from": "human", "value": "<video>\nWhy?"}]},
    ]  # fmt: skip
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second, third = read_samples(jsonl.Settings(name="jsonl", file=str(path)))
    assert (first.key, first.root, first.question, first.reference) == (
        "mine/drive/clip_2.mp4",
        tmp_path,
        QUESTION,
        "left",
    )
    assert first.extra == {"split": "test", "options": ["left", "right"]}
    assert media.read_video_frames(first, frames=2).source == "mp4"
    assert (second.key, second.id, second.question, second.reference) == ("a/b.npy", "7", "What moves?", "A tram.")
    assert (third.key, third.question) == ("v", "Why?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1 is no object"),
        ('{"file": 1}', "line 1: 'file' is 1, expected a text"),
        ('{"question": "what?"}', "line 1 has no id, event_data or video_data"),
        ('{"file": "a", "video_data": "b"}', "line 1 has both 'file' and 'video_data'"),
        ('{"file": "a", "file": "b"}', "line 1: the key 'file' is twice"),
    ],
)
def test_a_list_that_cannot_be_read_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "list.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        read_samples(jsonl.Settings(name="jsonl", file=str(tmp_path / "list.jsonl")))


def test_a_path_that_leads_out_of_the_folder_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"file": "../other.mp4"}')
    (sample,) = read_samples(jsonl.Settings(name="jsonl", file=str(tmp_path / "list.jsonl")))
    with pytest.raises(SampleError, match=r"contains '\.\.'"):
        media.read_video_frames(sample)


def test_a_question_without_options_is_asked_as_it_is(tmp_path: Path) -> None:
    assert asked("Why?", ()) == "Why?"
    (tmp_path / "q.jsonl").write_text('{"file": "a", "options": ["x", "y"]}\n')
    assert read_questions(tmp_path / "q.jsonl")[0].options == ("x", "y")
