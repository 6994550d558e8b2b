"""Whatever text people's files, settings and models hold: no run is lost, and nothing of it steers the terminal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fourstage.cli import compare, ingest, inspect, sync
from fourstage.cli.run import main
from fourstage.config import flat, run_names, schema
from fourstage.config.compose import compose, quote_where_needed
from fourstage.data.formats.demo import JSON_NAME
from fourstage.json_text import parse_json
from fourstage.models.base import StagedPipeline
from fourstage.stages import UserError
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_runs, run_records
from tests.legacy_files import lists
from tests.small import SMALL, Run, finished, into, on

EVIL = "\x1b[31mred\x1b]0;title\x07\r\x00\x9b2J\u202egnp.\u2066x\u200f"
STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
HALF = "\ud83d"


def rewrite(root: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    listed = json.loads((root / JSON_NAME).read_text())
    change(listed)
    (root / JSON_NAME).write_text(json.dumps(listed))


def harmless(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, after a look for what steers a terminal; the UTF-8 that a terminal gets holds it too."""
    said = capsys.readouterr()
    text = said.out + said.err
    assert not STEERS.search(text), repr(text[max(0, STEERS.search(text).start() - 200) :][:300])  # type: ignore[union-attr]
    assert "Traceback" not in text
    text.encode("utf-8")
    return text


# ---- lone surrogates, and data that no file system has ----


def test_half_a_character_anywhere_costs_no_sample(run: Run, store: Destination, root: Path) -> None:
    def spoil(listed: list[dict[str, Any]]) -> None:
        listed[0]["id"] = f"a{HALF}"
        listed[0]["conversations"][0]["value"] += HALF
        listed[1]["conversations"][1]["value"] += HALF
        listed[2]["colour"] = HALF

    rewrite(root, spoil)
    records = run_records(store, finished(run(*on(root), "protocol.audit=true")).run_id)
    assert [record.error for record in records] == [None, None, None]
    assert records[0].sample_id == "a\ufffd"
    assert records[0].question is not None
    assert records[0].question.endswith("\ufffd")
    assert records[1].reference.endswith("\ufffd")
    assert any("half of a surrogate pair" in note for note in records[1].notes)
    assert not records[2].notes


@pytest.mark.parametrize(
    ("setting", "name", "message"),
    [
        ("cache=frames", "v" * 5000, "a name of 5,000 bytes"),
        ("protocol.io=cold", f"clip{HALF}", "half of a surrogate pair"),
        ("batch_size=3", f"clip{HALF}", "half of a surrogate pair"),
    ],
)
def test_a_path_that_no_system_has_is_its_samples_fault_alone(
    setting: str, name: str, message: str, run: Run, store: Destination, root: Path
) -> None:
    def spoil(listed: list[dict[str, Any]]) -> None:
        for key in ("event_data", "video_data", "mp4_data"):
            listed[1][key] = name
        listed[1]["event_image"] = [name]

    rewrite(root, spoil)
    model = "videollava" if "batch" in setting else "eventgpt"
    records = run_records(store, finished(run(*on(root), f"model={model}", setting)).run_id)
    assert [record.ok for record in records] == [True, False, True]
    assert message in (records[1].error or "")
    assert records[1].error_stage == "load"


# ---- control characters ----


def test_no_command_hands_control_characters_to_the_terminal(
    store: Destination, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def spoil(listed: list[dict[str, Any]]) -> None:
        listed[0]["id"] = f"id {EVIL}\nforged line"
        listed[0]["conversations"][0]["value"] = f"What is this? {EVIL}"
        listed[1]["event_data"] = f"gone {EVIL}.npy"
        listed[1]["event_image"] = [f"gone {EVIL}\nforged line.png"]
        listed[2]["conversations"][1]["value"] = EVIL

    rewrite(root, spoil)
    monkeypatch.setattr(StagedPipeline, "detokenise", lambda self, ids: f"answer {EVIL}")
    prompt = json.dumps(f"prompt {EVIL}".replace("\x00", ""), ensure_ascii=False).replace("\\u", "u")
    words = [*into(store), *SMALL, *on(root)]
    assert main([*words, "sweep.compare=true", "-m", "seed=0,1", f"prompt={prompt}"]) == 0
    assert "\nforged line" not in harmless(capsys)
    made = [facts for facts in find_runs(store) if "fourstage.job" in facts.tags][:2]
    assert compare.main([f"uri={store.uri}", f"baseline={made[0].run_id}", f"target={made[1].run_id}",
                         "allow_invalid=true"]) == 0  # fmt: skip
    assert "\nforged line" not in harmless(capsys)
    assert inspect.main([*SMALL, *on(root), "format=markdown"]) == 0
    assert inspect.main([*SMALL, *on(root)]) == 0
    assert "␛[31mred" in harmless(capsys)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (main, [f"run_name=x{EVIL}"]),
        (main, [f"temprature{EVIL}=1"]),
        (main, [f"temperature=x{EVIL}"]),
        (main, [f"model={EVIL}"]),
        (main, [f"device={EVIL}"]),
        (main, ["dataset=eventgpt_json", f"dataset.root=/nowhere{EVIL}"]),
        (main, [f"+experiments={EVIL}"]),
        (main, [f"tracking.uri=none:{EVIL}"]),
        (main, ["--cfg", "job", 'prompt="a \u202e\u200f b"']),
        (compare.main, [f"uri=sqlite:///x{EVIL}"]),
        (compare.main, [f"baseline{EVIL}"]),
        (inspect.main, [f"media=x{EVIL}"]),
        (inspect.main, [f"out={EVIL}"]),
        (inspect.main, [f"sample={EVIL}", "dataset.samples=2"]),
        (ingest.main, [f"file=x{EVIL}"]),
        (ingest.main, [f"unit={EVIL}", "file=ok.json"]),
        (ingest.main, ["file=keys.json"]),
        (sync.main, [f"folder=x{EVIL}"]),
    ],
)
def test_messages_show_control_characters_on_one_line(
    command: Callable[[list[str]], int],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok.json").write_text(json.dumps(lists()))
    (tmp_path / "keys.json").write_text(json.dumps({EVIL: 1}))
    code = command(words)
    text = harmless(capsys)
    assert code == (0 if "--cfg" in words else 2)
    assert "--cfg" in words or len(text.splitlines()) == 1


# ---- JSON ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": 1}, {"id": 2, "id": 3}]', "the key 'id' is twice in the object at entry 1;"),
        ('{"a": [{"b": {"c": 1, "c": 1}}]}', "the key 'c' is twice in the object at 'a'[0], 'b';"),
        ('{"a": {"x": 1, "x": 2}, "a": 3}', "the key 'a' is twice in the object at the top;"),
        ("[" + "9" * 5000 + "]", "a whole number has thousands of digits"),
        ("[" * 100_000, "nested too deep"),
        ("[1", "not JSON: Expecting ',' delimiter at line 1 column 3"),
    ],
)
def test_json_that_means_two_things_or_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_json(text)


def test_a_dataset_and_a_result_file_with_a_key_twice_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice.json").write_text('[{"id": "a", "id": "b"}]')
    assert main(["dataset=eventgpt_json", "dataset.root=.", "dataset.file=twice.json"]) == 2
    assert ingest.main(["file=twice.json"]) == 2
    assert capsys.readouterr().err.count("the key 'id' is twice in the object at entry 0") == 2


def test_a_result_file_with_halves_of_characters_is_taken_in(
    store: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {f"{HALF}{EVIL}": 1} | {key: spoilt(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoilt(item) for item in value]
        return f"{value}{HALF}{EVIL}" if isinstance(value, str) else value

    (tmp_path / "old.json").write_text(json.dumps(spoilt(lists())))
    assert ingest.main(["file=old.json", f"uri={store.uri}"]) == 0
    assert "FINISHED" in harmless(capsys)


# ---- texts as they were typed, numbers as they are meant ----


@pytest.mark.parametrize(
    "typed",
    ["3e563", "67217e15", "1_000", "1.50", "2024e5", "0x10", "on", "true", "nan", "1:30", "-5", "007", "9" * 5000],
)
def test_a_free_text_stays_as_it_was_typed(typed: str) -> None:
    for key in ("run_name", "prompt", "tracking.experiment"):
        tree = compose([f"{key}={typed}"])
        assert flat.flatten(tree)[key] == typed
        schema.check(tree)


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("run_name=1.50,2.50", 'run_name="1.50","2.50"'),
        ("prompt=choice(1.50, on)", 'prompt=choice("1.50", on)'),
        ('run_name="1.50"', 'run_name="1.50"'),
        ("run_name=null", "run_name=null"),
        ("run_name=a-${seed}", "run_name=a-${seed}"),
        ("prompt=[1,2]", "prompt=[1,2]"),
        ("dataset.root=~/a,~/b c", 'dataset.root="~/a","~/b c"'),
        ("temperature=1.50", "temperature=1.50"),
        ("++run_name=1e5", '++run_name="1e5"'),
    ],
)
def test_only_texts_that_hydra_would_change_are_quoted(word: str, written: str) -> None:
    assert quote_where_needed(word) == written
    assert quote_where_needed(written) == written


def test_null_in_quotes_is_a_text() -> None:
    assert compose(['run_name="null"'])["run_name"] == "null"
    assert compose(["run_name=null"])["run_name"] is None


def test_swept_texts_stay_as_they_were_typed(run: Run, store: Destination, dataset: Path) -> None:
    assert run(*on(dataset), "-m", "prompt=1.50,2e400", "dataset.limit=1")[0] == 0
    made = [facts for facts in find_runs(store) if facts.params.get("prompt") in ("1.50", "2e400")]
    assert sorted(facts.name.rpartition("-")[2] for facts in made) == ["prompt=1.50", "prompt=2e400"]


def test_one_number_has_one_identity_and_one_name_however_it_was_written() -> None:
    trees = []
    for zero in ("0", "0.0", "-0.0", "0e5"):
        tree = compose([f"temperature={zero}", "top_p=1"])
        trees.append(schema.typed(tree, schema.check(tree)))
    assert len({flat.identity(tree) for tree in trees}) == 1
    assert str(flat.flatten(trees[0])["temperature"]) == "0.0"
    names = {run_names.default_run_name(schema.check(tree), {"top_p": "1"}) for tree in trees}
    assert names == {"eventgpt-demo-fp32-greedy-top_p=1"}


# ---- paths and places ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=" + "9" * 5000], "a whole number of thousands of digits"),
        (["temperature=" + "9" * 4000], "expected a number from 0 up to 100"),
        (["-m", "seed=range(1,1000000000000)"], "over 100,000 values"),
        (["-m", "seed=glob(*)"], "'seed=glob(*)': glob() chooses among the options of a group"),
        (["dataset=eventgpt_json", f"dataset.root={'r' * 5000}"], "a name of 5,000 bytes"),
        (["dataset=eventgpt_json", 'dataset.root="a\nb"'], "contains a line break"),
        (["dataset=eventgpt_json", "dataset.root=.", "dataset.file=."], "no dataset file '.'"),
        (["dataset=eventgpt_json", "dataset.root=.", "dataset.file=/"], "no dataset file '/'"),
        (["dataset=eventgpt_json", "dataset.root=.", "dataset.file=fifo"], "is a named pipe, expected a regular file"),
        (["dataset=eventgpt_json", "dataset.root=.", "dataset.file=/dev/zero"], "is a device, expected a regular"),
        (["weights=pretrained", f"weights.path={'w' * 5000}"], "a name of 5,000 bytes"),
        (["dataset.cache=''"], "dataset.cache='' is empty"),
        (["dataset=eventgpt_json", "dataset.root=~nobody-of-this-name/x"], "no home folder is known"),
        (["tracking.uri=''"], "tracking.uri is empty; expected a database"),
        (["tracking.uri=5"], "tracking.uri is '5'; expected a database, sqlite:///mlruns/mlflow.db"),
        (["tracking.uri=mlruns"], "tracking.uri is 'mlruns'; expected a database"),
        (["tracking.uri=sqlite:///."], "is a folder; expected a file"),
        (["hydra.job.chdir=true"], "hydra.job.chdir=true: paths of data and store"),
        (["-m", "hydra.job.chdir=true", "seed=0,1"], "hydra.job.chdir=true: paths of data and store"),
        (["-m", "hydra.sweep.subdir=${hydra.job.override_dirname}", f"prompt={'p' * 300},b"], "of job 0 has a name of"),
        (["-m", "hydra.sweep.subdir=same", "seed=0,1"], "jobs 0 and 1 would share it"),
    ],
)
def test_what_no_number_path_or_place_can_be_is_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    tiny = [] if words[0] == "dataset=eventgpt_json" else ["dataset.samples=1", "dataset.seconds=0.2"]
    assert main([*SMALL, *tiny, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_a_job_folder_named_by_its_overrides_works_where_it_fits(run: Run, dataset: Path) -> None:
    assert run(*on(dataset), "-m", "hydra.sweep.subdir=${hydra.job.override_dirname}", "seed=0,1")[0] == 0


def test_the_home_folder_is_known_wherever_a_path_is_taken(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(root.parent)
    here = ["tracking.uri=sqlite:///~/store/m.db", "tracking.artifacts=~/kept", "dataset.root=~/dataset"]
    assert main([*SMALL, "dataset=eventgpt_json", *here]) == 0
    assert (tmp_path / "store" / "m.db").is_file()
    assert list((tmp_path / "kept").rglob("records.parquet"))
    run = find_runs(Destination("sqlite:///~/store/m.db", None, "fourstage"))[0]
    assert run.params["dataset.root"] == str(tmp_path / "dataset")
    media = next((tmp_path / "dataset" / "mp4").rglob("*.mp4")).relative_to(tmp_path)
    assert inspect.main([*SMALL, "model=videollava", f"media=~/{media}", "out=~/x.npz"]) == 0
    assert (tmp_path / "x.npz").is_file()
    (tmp_path / "old.json").write_text(json.dumps(lists()))
    assert ingest.main(["file=~/old.json", "uri=sqlite:///~/store/m.db"]) == 0
    assert not (root.parent / "~").exists()


@pytest.mark.parametrize("name", ["what now?", "a%40b #1", 'R&D;it\'s "ünï" 红'])
def test_a_working_folders_name_is_no_url(
    name: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder := tmp_path / name).mkdir()
    monkeypatch.chdir(folder)
    assert main([*SMALL, *on(dataset), "dataset.limit=2", "-m", "seed=0,1"]) == 0
    assert (folder / "mlruns" / "mlflow.db").is_file()
    assert list(tmp_path.iterdir()) == [folder]
    assert compare.main([]) == 0
    assert sync.main([]) == 0
    assert "nothing to send" in capsys.readouterr().err
    assert list((folder / "mlruns" / "artifacts").rglob("records.parquet"))


@pytest.mark.parametrize(("typed", "name"), [('"it\'s"', "it's"), ('"it\'s \\"x\\""', 'it\'s "x"')])
def test_a_sweeps_name_with_quotes_is_found_again(
    typed: str, name: str, run: Run, store: Destination, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "seed=0,1", f"sweep.name={typed}", "dataset.limit=1", "max_new_tokens=2"]
    assert run(*words)[0] == 0
    assert run(*words, "sweep.resume=true")[0] == 0
    assert "2 skipped" in capsys.readouterr().err
    assert compare.main([f"uri={store.uri}", f"sweep={name}", "allow_invalid=true"]) == 0


def test_a_sweep_goes_on_however_its_numbers_are_written(
    run: Run, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*on(dataset), "-m", "dataset.limit=1", "max_new_tokens=2"]
    assert run(*words, "temperature=0.0,1.0", "top_p=1", "seed=1_000")[0] == 0
    assert run(*words, "temperature=-0.0,1", "top_p=1.00", "seed=1000", "sweep.resume=true")[0] == 0
    assert "2 skipped" in capsys.readouterr().err


# ---- the case of a public report ----


def test_the_dataset_that_ends_in_half_an_emoji_finishes(run: Run, store: Destination, shared: Path) -> None:
    folder = shared / "field" / "14-lone-surrogate"
    records = run_records(store, finished(run(*on(folder))).run_id)
    assert sum(record.ok for record in records) >= len(records) - 1
