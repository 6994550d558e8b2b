"""Datasets: what is read, what is refused and how, and what identifies them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourstage.data.dataset import dataset_digest, inside, read_dataset
from fourstage.data.media import read_event_images
from fourstage.stages import SampleError, UserError

ENTRY = {
    "id": "7f3a",
    "event_data": "seq/a.npy",
    "event_image": ["seq/a_0.png", "seq/a_1.png"],
    "video_data": "seq/a",
    "mp4_data": "seq/a.mp4",
    "split": "train",
    "conversations": [
        {"from": "human", "value": "<event>\nWhat is there?"},
        {"from": "gpt", "value": "A road."},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": "A tree."},
    ],
}


def write(root: Path, content: Any) -> Path:
    (root / "set.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_an_entry_becomes_a_sample(tmp_path: Path) -> None:
    (sample,) = read_dataset(write(tmp_path, [ENTRY]), "set.json")
    assert sample.key == "seq/a.npy"
    assert sample.id == "7f3a"
    assert sample.root == tmp_path
    assert sample.event_image == ("seq/a_0.png", "seq/a_1.png")
    assert (sample.video_data, sample.mp4_data) == ("seq/a", "seq/a.mp4")
    assert (sample.question, sample.reference) == ("What is there?", "A road.")
    assert sample.extra == {"split": "train"}


@pytest.mark.parametrize(
    ("entry", "key", "identity"),
    [
        ({"id": "i", "event_data": "e.npy", "video_data": "v"}, "e.npy", "i"),
        ({"id": "i", "video_data": "v"}, "v", "i"),
        ({"id": "i"}, "i", "i"),
        ({"id": 12}, "12", "12"),
        ({"event_data": "e.npy"}, "e.npy", "e.npy"),
        ({"id": "i", "event_data": "", "video_data": None}, "i", "i"),
    ],
)
def test_the_key_is_event_data_else_video_data_else_id(
    tmp_path: Path, entry: dict[str, Any], key: str, identity: str
) -> None:
    (sample,) = read_dataset(write(tmp_path, [entry]), "set.json")
    assert (sample.key, sample.id) == (key, identity)


@pytest.mark.parametrize(
    ("value", "question"),
    [
        ("<event>\nWhat?", "What?"),
        ("<video>\nWhat?", "What?"),
        ("<image>\nWhat?", "What?"),
        ("<event>\n", ""),
        ("", ""),
        ("What is <event>\n?", "What is <event>\n?"),
    ],
)
def test_only_a_leading_media_tag_leaves_the_question(tmp_path: Path, value: str, question: str) -> None:
    entry = {"id": "i", "conversations": [{"from": "human", "value": value}]}
    (sample,) = read_dataset(write(tmp_path, [entry]), "set.json")
    assert (sample.question, sample.reference) == (question, "")


def test_entries_that_share_a_key_are_kept_apart_in_order_of_appearance(tmp_path: Path) -> None:
    entries = [{"id": str(i), "event_data": name} for i, name in enumerate(["a", "b", "a", "a", "b"])]
    root = write(tmp_path, entries)
    assert [sample.key for sample in read_dataset(root, "set.json")] == ["a", "b", "a#2", "a#3", "b#2"]


def test_keys_do_not_depend_on_the_limit(tmp_path: Path) -> None:
    root = write(tmp_path, [{"id": str(i), "video_data": "v"} for i in range(4)])
    full = [sample.key for sample in read_dataset(root, "set.json")]
    assert [sample.key for sample in read_dataset(root, "set.json", limit=2)] == full[:2]


def test_a_made_up_key_gives_way_to_one_that_was_there_first(tmp_path: Path) -> None:
    entries = [{"event_data": name} for name in ("a#2", "a", "a")]
    assert [s.key for s in read_dataset(write(tmp_path, entries), "set.json")] == ["a#2", "a", "a#3"]


def test_media_files_need_not_exist_yet(tmp_path: Path) -> None:
    assert len(read_dataset(write(tmp_path, [ENTRY]), "set.json")) == 1


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text(json.dumps([ENTRY]), encoding="utf-8-sig")
    assert len(read_dataset(tmp_path, "set.json")) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"samples": []}, ["an object", "a list"]),
        ([], ["empty"]),
        ([ENTRY, "x"], ["entry 1", "a string", "an object"]),
        ([{"split": "x"}], ["entry 0", "id"]),
        ([{"id": ["x"]}], ["entry 0", "'id'", "a list"]),
        ([{"id": True}], ["entry 0", "'id'", "a boolean"]),
        ([{"id": "x", "event_data": 3}], ["entry 0", "'event_data'", "a number", "a string"]),
        ([{"id": "x", "mp4_data": {}}], ["entry 0", "'mp4_data'", "an object"]),
        ([{"id": "x", "event_image": "a.png"}], ["entry 0", "'event_image'", "a list of strings"]),
        ([{"id": "x", "event_image": ["a.png", 1]}], ["entry 0", "'event_image'[1]", "a number"]),
        ([{"id": "x", "conversations": {}}], ["entry 0", "'conversations'", "a list"]),
        ([{"id": "x", "conversations": [1]}], ["'conversations'[0]", "a number"]),
        ([{"id": "x", "conversations": [{"value": "?"}]}], ["'conversations'[0]", "'from'"]),
        ([{"id": "x", "conversations": [{"from": "gpt", "value": 1}]}], ["'conversations'[0]", "'value'", "a number"]),
    ],
)
def test_a_malformed_dataset_is_refused_in_one_line_that_names_the_place(
    tmp_path: Path, content: Any, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        read_dataset(write(tmp_path, content), "set.json")
    message = str(caught.value)
    assert "set.json" in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_broken_json_is_located(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text('[\n {"id": "a"},\n {"id" "b"}\n]')
    with pytest.raises(UserError, match="line 3 column 8"):
        read_dataset(tmp_path, "set.json")


def test_binary_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="UTF-8"):
        read_dataset(tmp_path, "set.json")


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist.*dataset\.root"):
        read_dataset(tmp_path / "nowhere", "set.json")


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [ENTRY])
    with pytest.raises(UserError, match="not a folder"):
        read_dataset(tmp_path / "set.json", "set.json")


def test_a_misspelt_file_name_is_met_with_the_right_one(tmp_path: Path) -> None:
    write(tmp_path, [ENTRY])
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match=r"did you mean 'set\.json'\?.*other\.json, set\.json"):
        read_dataset(tmp_path, "sett.json")


def test_a_folder_without_json_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \*\.json"):
        read_dataset(tmp_path, "set.json")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UserError, match=f"{limit}.*at least 1"):
        read_dataset(write(tmp_path, [ENTRY]), "set.json", limit=limit)


@pytest.mark.parametrize(
    "relative",
    ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "C:\\x", "C:x", "\\\\host\\x", "a\\..\\x", "", ".", "a\0b"],
)
def test_paths_that_could_leave_the_folder_are_refused(relative: str) -> None:
    with pytest.raises(SampleError):
        inside(Path("/data"), "event_npy", relative)


@pytest.mark.parametrize("relative", ["a.npy", "seq/a.npy", "a..b/c...npy", "..a", "käse/ü 1.npy"])
def test_paths_within_the_folder_pass(relative: str) -> None:
    assert inside(Path("/data"), "event_npy", relative) == Path("/data/event_npy") / relative


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.npy", "/"]), max_size=6).map("/".join))
def test_what_passes_never_leads_out(relative: str) -> None:
    root = Path("/data")
    try:
        path = inside(root, "event_npy", relative)
    except SampleError:
        return
    assert Path(path.as_posix()).resolve().is_relative_to("/data/event_npy")


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.npy").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "event_npy").symlink_to(tmp_path / "elsewhere")
    assert inside(tmp_path / "root", "event_npy", "a.npy").read_bytes() == b"x"


def test_a_moved_dataset_has_the_same_digest(tmp_path: Path) -> None:
    digests = []
    for name in ("here", "there"):
        root = tmp_path / name
        (root / "event_npy/seq").mkdir(parents=True)
        (root / "event_npy/seq/a.npy").write_bytes(b"12345")
        digests.append(dataset_digest(read_dataset(write(root, [ENTRY]), "set.json")))
    assert digests[0] == digests[1]
    assert len(digests[0]) == 16


def test_the_digest_sees_text_order_file_sizes_and_frames(tmp_path: Path) -> None:
    samples = read_dataset(write(tmp_path, [ENTRY, {"id": "b"}]), "set.json")
    digests = [
        dataset_digest(samples),
        dataset_digest(samples[::-1]),
        dataset_digest(samples[:1]),
        dataset_digest([replace(samples[0], question="Else?"), samples[1]]),
    ]
    (tmp_path / "mp4/seq").mkdir(parents=True)
    (tmp_path / "mp4/seq/a.mp4").write_bytes(b"12345")
    digests.append(dataset_digest(samples))
    (tmp_path / "video/seq/a").mkdir(parents=True)
    digests.append(dataset_digest(samples))
    (tmp_path / "video/seq/a/0.png").write_bytes(b"1")
    digests.append(dataset_digest(samples))
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("path", ["/", ".", "./", "..", "a/.."])
def test_a_path_without_a_name_is_its_samples_fault_alone(tmp_path: Path, path: str) -> None:
    samples = read_dataset(write(tmp_path, [ENTRY | {"event_data": path}]), "set.json")
    assert len(dataset_digest(samples)) == 16
    with pytest.raises(SampleError, match=r"is absolute|is empty|contains '\.\.'"):
        read_event_images(samples[0], source="npy")
    with pytest.raises(SampleError):
        read_event_images(samples[0], source="mp4")


def test_the_digest_survives_paths_that_lead_out(tmp_path: Path) -> None:
    samples = read_dataset(write(tmp_path, [{"id": "x", "event_data": "../../etc/passwd"}]), "set.json")
    assert dataset_digest(samples)


@pytest.mark.real
def test_the_real_dataset_reads(shared: Path) -> None:
    samples = read_dataset(shared / "real", "EventGPT_Instruction_Subset.json")
    assert [sample.key for sample in samples] == ["dadao", "gota", "sample1.npy", "interlaken_00_d_000089.npy"]
    assert samples[0].question == "What are the key elements in this scene?"
