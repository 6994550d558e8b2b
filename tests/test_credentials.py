"""A password in an address is taken out before it is shown, stored or sent, and the address still works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fourstage.cli.hydra_job import SweepCallback
from fourstage.cli.run import main
from fourstage.config.compose import as_tree
from fourstage.config.multirun import hide_credentials
from fourstage.credentials import KEPT, complete, keep, login, masked, masked_error, masked_tree, take_out
from fourstage.stages import UserError


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    os.environ.pop(KEPT, None)


@pytest.mark.parametrize(
    ("uri", "bare", "user", "password"),
    [
        ("http://me:secret@host:5000", "http://host:5000", "me", "secret"),
        ("https://me:p@ss@host/x", "https://host/x", "me", "p@ss"),
        ("https://me:p%40ss@host/x", "https://host/x", "me", "p@ss"),
        ("http://me:s3@p/1@127.0.0.1:5", "http://127.0.0.1:5", "me", "s3@p/1"),
        ("http://me:p/s?x#y@host", "http://host", "me", "p/s?x#y"),
        ("http://me:a:b@[::1]:5000", "http://[::1]:5000", "me", "a:b"),
    ],
)
def test_of_a_servers_address_user_and_password_become_a_login(uri: str, bare: str, user: str, password: str) -> None:
    assert keep(uri) == complete(bare) == bare
    assert login(bare) == (user, password)
    assert masked(f"cannot reach '{uri}'; is it there?") == f"cannot reach '{bare}'; is it there?"


@pytest.mark.parametrize(
    ("uri", "bare", "whole"),
    [
        ("postgresql://me:p@ss@h:5/db", "postgresql://me@h:5/db", "postgresql://me:p%40ss@h:5/db"),
        ("postgresql+psycopg2://me:p%40s@h/db", "postgresql+psycopg2://me@h/db", "postgresql+psycopg2://me:p%40s@h/db"),
        ("postgresql://me:p/s#@h/db?a=b@c", "postgresql://me@h/db?a=b@c", "postgresql://me:p%2Fs%23@h/db?a=b@c"),
        ("mysql://h/db?user=me&password=x1&a=b", "mysql://h/db?user=me&a=b", "mysql://h/db?user=me&a=b&password=x1"),
    ],
)
def test_a_database_gets_its_password_back(uri: str, bare: str, whole: str) -> None:
    assert keep(uri) == bare
    assert complete(bare) == whole
    assert masked(uri) == masked(whole) == bare


@pytest.mark.parametrize(
    "uri",
    ["http://host:5000/a@b", "https://host/x?y=1", "sqlite:////a/b.db?timeout=3", "sqlite:///what now?@x.db",
     "s3://bucket/a:b@c", "file:///a@b/c:d@e", "http://[::1]:5000/a", "postgresql://me@host/db"],
)  # fmt: skip
def test_an_address_without_a_password_stays(uri: str) -> None:
    assert keep(uri) == masked(uri) == uri
    assert login(uri) is None


@pytest.mark.parametrize("uri", ["http://host?token=abc", "https://abcdef@host", "http://host/?api_key=1&x=2"])
def test_a_token_in_a_servers_address_is_refused_and_the_variable_for_it_named(uri: str) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_TOKEN") as caught:
        keep(uri)
    assert "abc" not in str(caught.value)
    assert "api_key" not in masked(f"see {uri}")


def test_a_drivers_error_shows_no_part_of_the_password() -> None:
    keep("postgresql://me:p@ssword@h/db")
    assert masked_error('password "p@ssword" of "me" at "p%40ssword"') == 'password "***" of "me" at "***"'


def test_of_a_command_line_every_address_is_cleaned_but_not_what_the_model_is_asked() -> None:
    words = ["-m", 'tracking.uri="postgresql://a:bb b@c/d"', "+weights.path=https://a:b@c/x", "prompt=http://a:b@c",
             "hydra.launcher.ray.init.address=ray://a:b@c:1", "tracking.uri=http://a:b@x,http://y"]  # fmt: skip
    assert take_out(words) == [
        "-m", 'tracking.uri="postgresql://a@c/d"', "+weights.path=https://c/x", "prompt=http://a:b@c",
        "hydra.launcher.ray.init.address=ray://a@c:1", "tracking.uri=http://x,http://y",
    ]  # fmt: skip


def test_an_address_that_became_a_path_is_cleaned_too() -> None:
    assert masked("no folder http:/me:secret@host/x in file:/a/b:c") == "no folder http:/host/x in file:/a/b:c"


def test_nested_values_are_cleaned() -> None:
    assert masked_tree({"a": ["http://x:y@z", 1], "b": {"c": None}}) == {"a": ["http://z", 1], "b": {"c": None}}


def test_what_hydra_writes_of_a_password_in_a_file_of_settings_is_cleaned_before_the_job(tmp_path: Path) -> None:
    written = tmp_path / ".hydra" / "config.yaml"
    written.parent.mkdir()
    written.write_text("tracking:\n  uri: http://me:secret@host:5000\n", encoding="utf-8")
    hydra = {"runtime": {"output_dir": str(tmp_path)}, "output_subdir": ".hydra"}
    composed = OmegaConf.create({"tracking": {"uri": "http://me:secret@host:5000"}, "hydra": hydra})
    SweepCallback().on_job_start(composed)
    assert written.read_text(encoding="utf-8") == "tracking:\n  uri: http://host:5000\n"
    hide_credentials(composed)  # of a sweep, whose jobs compose again
    assert as_tree(composed)["tracking"] == {"uri": "http://host:5000"}
    assert login("http://host:5000") == ("me", "secret")


def test_a_composition_that_is_shown_has_no_password_of_a_file_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    study = "# @package _global_\nstudy: mine\ntracking: {uri: 'http://me:secret@host'}\n"
    study += "hydra: {sweeper: {params: {seed: '0,1'}}}\n"
    (tmp_path / "experiments" / "mine.yaml").write_text(study)
    assert main(["+experiments=mine", "--cfg", "job"]) == 0
    out = capsys.readouterr().out
    assert "uri: http://host" in out
    assert "secret" not in out
