"""The data formats, made visible."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from fourstage.cli.inspect import main

SMALL = ["weights=random", "weights.size=tiny",
         "generation=greedy", "max_new_tokens=4", "dataset.samples=2", "dataset.seconds=0.4", "dataset.width=96",
         "dataset.height=64"]  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_eventgpts_tensors_have_the_references_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "model=eventgpt", "out=made/tensors.npz"]) == 0
    tensors = np.load("made/tensors.npz")
    assert set(tensors) == {
        *(f"event_image_{i}" for i in range(5)), "pixel_values", "clip_last_hidden_state", "projector_out",
        "adaptor_out", "spatio_temporal_tokens", "input_ids", "inputs_embeds", "prefill_logits_last", "generated_ids",
    }  # fmt: skip
    assert -200 in tensors["input_ids"]
    assert tensors["spatio_temporal_tokens"].shape == (5 + 17, 64)
    out = capsys.readouterr().out
    for word in ("load", "preprocess", "encode", "decode", "KV cache", "visual tokens", "5 x 17 x 64", "float32"):
        assert word in out


def test_videollavas_tensors_have_the_references_names() -> None:
    assert main([*SMALL, "model=videollava", "out=tensors.npz"]) == 0
    tensors = np.load("tensors.npz")
    assert {"pixel_values_videos", "video_features", "input_ids", "generated_ids"} < set(tensors)
    assert tensors["pixel_values_videos"].shape == (1, 8, 3, 112, 112)
    assert tensors["video_features"].shape == (8, 17, 64)


def test_the_bytes_told_are_the_tensors_own(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "model=eventgpt", "precision=bf16", "format=markdown"])
    out = capsys.readouterr().out
    assert "| `pixel_values` | 5 x 3 x 112 x 112 | bfloat16 | cpu | 376,320 |" in out
    assert "KV cache | " in out


def test_the_kv_cache_is_two_tensors_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SMALL, "model=eventgpt"])
    assert "1,024 a token" in capsys.readouterr().out  # 2 layers x (key, value) x 64 x 4 bytes


def test_a_sample_can_be_named_by_id_or_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "sample=demo_night_00/000000.npy"]) == 0
    assert "demo_night_00/000000.npy through four stages" in capsys.readouterr().out


def test_a_sample_with_an_id_of_its_own_is_shown_by_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = root / "EventGPT_Instruction_Subset.json"
    entries = json.loads(listed.read_text())
    entries[1]["id"] = "my id: c4"
    listed.write_text(json.dumps(entries))
    given = [
        "weights=random",
        "weights.size=tiny",
        "generation=greedy",
        "max_new_tokens=4",
        "dataset=eventgpt_json",
        f"dataset.root={root}",
    ]
    assert main([*given, "sample=my id: c4"]) == 0
    assert f"my id: c4 ({entries[1]['event_data']}) through four stages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample=demo_night_00/00000.npy"], "did you mean 'demo_night_00/000000.npy'?"),
        (["media=nowhere.mp4"], "media=nowhere.mp4: there is no such file"),
        (["format=pdf"], "unknown format 'pdf'"),
        (["out=tensors.txt"], "expected a name that ends in .npz"),
        (["temprature=1"], "did you mean 'temperature'?"),
    ],
)
def test_a_slip_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.real
def test_a_raw_event_file_gives_the_tensors_of_the_published_code(shared: Path) -> None:
    reference = shared / "reference" / "eventgpt"
    code = main(
        [
            "model=eventgpt",
            "weights=pretrained",
            f"weights.path={reference / 'A' / 'checkpoint'}",
            f"media={shared / 'real' / 'event_npy' / 'sample1.npy'}",
            "generation=greedy",
            "max_new_tokens=24",
            'prompt="Describe in detail what happened in the scene."',
            "out=tensors.npz",
        ]
    )
    assert code == 0
    spec = importlib.util.spec_from_file_location("check_reference", reference / "check_reference.py")
    assert spec
    assert spec.loader
    checker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checker)
    found = dict(np.load("tensors.npz"))
    for name in ("input_ids", "inputs_embeds", "prefill_logits_last", "generated_ids"):
        found[f"q0_{name}"] = found.pop(name)
    ok, rows = checker.check(str(reference / "A"), found)
    assert ok
    assert sum(verdict == "ok" for _, verdict, _ in rows) == len(found)


@pytest.mark.real
@pytest.mark.parametrize("media", ["mp4/gota.mp4", "video/gota"])
def test_a_clip_or_a_folder_of_frames_works_in_place_of_a_dataset(
    media: str, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model=videollava", f"media={shared / 'real' / media}", "max_new_tokens=2"]) == 0
    assert "480 x 640 x 3" in capsys.readouterr().out
