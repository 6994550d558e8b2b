"""Every message about a setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourstage import plugins
from fourstage.cli.run import main
from fourstage.config import flat, keys, run_names, schema
from fourstage.config.compose import check_command_line, compose
from fourstage.config.values import SettingError
from fourstage.plugins import conf_folder

FILES = [path for path in conf_folder().glob("*/*.yaml") if path.parent.name != "experiments"]  # see test_studies.py
OPTIONS = sorted((path.parent.name, path.stem) for path in FILES)


def composed(*overrides: str) -> dict[str, Any]:
    return compose(overrides)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_of_conf_composes_and_passes_the_schema(group: str, option: str) -> None:
    extra = {
        "eventgpt_json": ["dataset.root=x"],
        "folder": ["dataset.root=x"],
        "jsonl": ["dataset.file=x"],
        "server": ["tracking.uri=http://127.0.0.1:1"],
    }.get(option, [])
    schema.check(composed(f"{group}={option}", *extra))


def test_sampling_defaults_follow_the_model() -> None:
    eventgpt, videollava = schema.check(composed()), schema.check(composed("model=videollava"))
    assert (eventgpt.temperature, videollava.temperature) == (0.6, 0.2)
    for config in (eventgpt, videollava):
        assert (config.top_p, config.max_new_tokens, config.num_beams) == (1.0, 512, 1)


def test_greedy_makes_any_model_deterministic_and_a_temperature_still_wins() -> None:
    assert schema.check(composed("model=videollava", "generation=greedy")).sampling.greedy
    assert schema.check(composed("generation=greedy", "temperature=0.4")).temperature == 0.4
    assert schema.check(composed("temperature=0")).sampling.greedy


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("temprature=0.2", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("+temprature=0.2", "unknown setting 'temprature'; did you mean 'temperature'?"),
        ("root=x", "unknown setting 'root'; did you mean 'dataset.root'?"),
        ("model=eventgptp", "unknown model 'eventgptp'; did you mean 'eventgpt'? (there are eventgpt, videollava)"),
        ("precision=bf17", "unknown precision 'bf17'; did you mean 'bf16'?"),
        ("model.frame_rule=linspce", "model.frame_rule='linspce': did you mean 'linspace'?"),
        ("temperature=hot", "temperature='hot': expected a number from 0 up to 100"),
        ("temperature=-0.1", "temperature=-0.1: expected a number from 0"),
        ("temperature=nan", "temperature=nan: expected a number"),
        ("temperature=true", "temperature=true: expected a number"),
        ("max_new_tokens=0", "max_new_tokens=0: expected a whole number from 1"),
        ("max_new_tokens=1.5", "max_new_tokens=1.5: expected a whole number"),
        ("top_p=0", "top_p=0: expected a number above 0 up to 1"),
        ("cache=frame", "cache='frame': did you mean 'frames'? (there are none, frames, tensors)"),
        ("experiments=cache", "write +experiments=cache"),
        ("+experiments=cache", "is a study, which sweeps model, cache: add -m"),
        ("+experiments=event_vs_vidio", "unknown experiment 'event_vs_vidio'; did you mean 'event_vs_video'?"),
        ("+experiments=cache,batch", "run one study at a time"),
        ("seed=null", "seed=null: expected a whole number"),
        ("model=null", "unknown model None"),
        ("temperature=0,0.2", "gives several values: add -m"),
        ("model", "'model' is not a setting: expected key=value, such as model=videollava"),
        ("prompt=a=b:{", "put a text with special characters in quotes: 'prompt=\"a=b:{\"'"),
        ('prompt=say "hi" {now}', """in quotes: 'prompt="say \\"hi\\" {now}"'"""),
        ("prompt=describe, please", """or put the text in quotes: 'prompt="describe, please"'"""),
        ("+foo=1", "unknown setting 'foo'; fourstage run --help lists them"),
        ("seed=-1", "seed=-1: expected a whole number from 0\n"),
    ],
)
def test_a_slip_gives_one_line_and_a_non_zero_exit(
    argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_slip_in_one_value_of_a_sweep_is_told_before_any_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "model=eventgpt,evntgpt", "temperature=0"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown model 'evntgpt'; did you mean 'eventgpt'? (there are eventgpt, videollava)\n"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=eventgpt", "model.frames=8"],
            "no setting of the model that was chosen; it belongs to model=videollava",
        ),
        (["weights=demo", "weights.path=x"], "it belongs to weights=pretrained"),
        (["-m", "temperature=0,1", "--cfg", "job"], "--cfg shows one composition, -m runs several"),
        (['prompt="  "'], "prompt is blank"),
        (['run_name=" "'], "run_name=' '"),
        (
            ["protocol=strict", "protocol.max_repeats=2"],
            "protocol.max_repeats=2: protocol.target_half_width needs rounds",
        ),
        (
            ["model=videollava", "weights=pretrained", "weights.vision_tower=x"],
            "weights.vision_tower=x: videollava has its tower in the checkpoint",
        ),
        (["dataset=eventgpt_json"], "dataset.root is missing: give dataset.root=<value>"),
        (["tracking=server"], "tracking.uri is missing"),
        (["generation=fixed", "num_beams=2"], "stop=fixed with num_beams>1"),
        (["protocol.target_half_width=0.02"], "needs rounds beyond protocol.repeats=1"),
        (["device=gpu"], "device='gpu': expected auto, cpu, cuda"),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(overrides) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_text_in_quotes_with_commas_is_one_value() -> None:
    check_command_line(['prompt="Is it day, or night?"'])


def test_flags_of_hydra_and_their_values_are_left_alone() -> None:
    check_command_line(["-m", "hydra.sweep.dir=x", "temperature=0,1", "--config-dir", "y"])
    check_command_line(["--cfg", "job", "temperature=0"])


def test_a_composed_key_that_nobody_uses_is_an_error() -> None:
    tree = composed()
    tree["model"]["colour"] = "red"
    with pytest.raises(SettingError, match=r"unknown setting 'model.colour'"):
        schema.check(tree)


def test_identity_ignores_where_a_run_is_tracked_and_sees_everything_else() -> None:
    base = flat.identity(composed())
    assert flat.identity(composed("tracking.experiment=other", "run_name=x", "study=x")) == base
    assert flat.identity(composed("seed=1")) != base
    assert flat.identity(composed("temperature=0.61")) != base
    assert flat.identity(composed("cache=frames")) != base


def test_flat_names_are_those_of_the_command_line() -> None:
    shown = flat.flatten(composed())
    assert shown["model.name"] == "eventgpt"
    assert shown["precision"] == "fp32"
    assert shown["temperature"] == 0.6


def test_every_setting_of_conf_says_what_it_means() -> None:
    for path in [*conf_folder().glob("*/*.yaml"), conf_folder() / "config.yaml"]:
        text = Path(path).read_text()
        assert "#" in text, f"{path.name} has no comment"


def named(*overrides: str, **varied: str) -> str:
    return run_names.default_run_name(schema.check(composed(*overrides)), varied)


def test_what_every_run_has_is_not_in_its_name() -> None:
    assert named() == "eventgpt-demo-fp32-T0.6"
    assert named("model=videollava", "generation=greedy") == "videollava-demo-fp32-greedy"
    assert named("generation=fixed", "weights=random") == "eventgpt-random-fp32-greedy-fixed128"
    for overrides in ((), ("model=videollava",), ("weights=random",), ("weights=pretrained",),
                      ("dataset=eventgpt_json", "dataset.root=x")):  # fmt: skip
        tree = composed(*overrides)
        unsaid = run_names._unsaid(schema.check(tree))
        shown = flat.flatten(tree)
        assert {key: shown[key] for key in unsaid if key in shown} == {
            key: unsaid[key] for key in unsaid if key in shown
        }


@pytest.mark.parametrize(("group", "option"), [item for item in OPTIONS if item[0] in plugins.CHOSEN])
def test_the_files_of_conf_give_the_defaults_of_the_settings(group: str, option: str) -> None:
    written = yaml.safe_load((conf_folder() / group / f"{option}.yaml").read_text())
    assert written == keys.defaults(group, option)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["dataset=eventgpt_json", "dataset.root=/data/dsec/"], "dsec"),
        (["dataset=eventgpt_json", "dataset.root=/data/dsec", "dataset.limit=5"], "dsec-limit=5"),
        (["dataset=folder", "dataset.root=/data/mine", "dataset.only=[a*,b]"], "mine-only=a*,b"),
        (["dataset.samples=8"], "samples=8"),
        (["seed=3", "dataset.seed=4", "weights.seed=5"], "seed=3-weights.seed=5-dataset.seed=4"),
        (["protocol=strict", "batch_size=4", "cache=frames"], "strict-batch_size=4-cache=frames"),
        (
            ["engine.attention=eager", "max_new_tokens=64", "num_beams=2"],
            "attention=eager-num_beams=2-max_new_tokens=64",
        ),
        (["model.event_images=3", "top_p=0.9"], "top_p=0.9-event_images=3"),
        (["prompt=Where?"], "prompt=Where?"),
    ],
)
def test_a_name_says_what_is_not_as_by_default(overrides: list[str], name: str) -> None:
    said = named(*overrides)
    assert said.startswith("eventgpt-demo-fp32-T0.6-")
    beyond = said.removeprefix("eventgpt-demo-fp32-T0.6-")
    assert sorted(beyond.split("-")) == sorted(name.split("-"))


def test_a_name_is_short_and_one_line_whatever_is_in_it() -> None:
    config = schema.check(composed())
    long = [replace(config, prompt="What is there? " * 400 + end) for end in ("a", "b")]
    one, other = map(run_names.default_run_name, long)
    assert one != other
    assert len(one) <= 60
    assert replace(config, prompt="a\n\x1b[31mb") != config
    assert run_names.default_run_name(replace(config, prompt="a\n\x1b[31mb")).isprintable()
    assert len(run_names.default_run_name(config, {f"model.setting_{i}": "x" * 99 for i in range(40)})) <= 120


def test_a_sweeps_runs_are_named_by_what_it_varied() -> None:
    assert named("batch_size=4", "seed=1", seed="1", batch_size="4") == "eventgpt-demo-fp32-T0.6-seed=1-batch_size=4"
    both = {"seed": "1", "dataset.seed": "2"}
    config = schema.check(composed("seed=1", "dataset.seed=2"))
    assert run_names.default_run_name(config, both).endswith("-seed=1-dataset.seed=2")
    assert run_names.name_of_varied(both) == "seed=1-dataset.seed=2"


def test_settings_are_read_back_from_a_runs_params() -> None:
    tree = composed("model.max_span_us=null", "model.event_images=7", "dataset.seconds=0.5")
    params = {key: str(value) for key, value in flat.flatten(tree).items()}
    config = schema.check(tree)
    for group in plugins.CHOSEN:
        assert keys.from_params(group, params) == getattr(config, group)


def test_a_run_of_an_earlier_version_gives_the_default_of_a_setting_that_it_did_not_have() -> None:
    assert keys.from_params("model", {"model.name": "eventgpt", "model.event_images": "3"}).mp4_folder == "event_mp4"
    with pytest.raises(SettingError, match=r"dataset\.root is missing"):
        keys.from_params("dataset", {"dataset.name": "eventgpt_json"})
    with pytest.raises(SettingError, match=r"model\.frames='many': expected a whole number"):
        keys.from_params("model", {"model.name": "videollava", "model.frames": "many"})
