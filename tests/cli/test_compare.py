"""The settings of `fourstage compare` are checked in one line each; tables come in the formats that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourstage.cli.compare import main
from fourstage.tracking.destination import Destination


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--help"], 0, "by="),
        (["baselin=x"], 2, "did you mean 'baseline'"),
        (["x"], 2, "expected key=value"),
        (["uri=sqlite:///no.db"], 2, "no.db does not exist"),
        (["margin=2"], 2, "margin=2: expected a number between 0 and 1"),
        (["allow_invalid=maybe"], 2, "expected true or false"),
    ],
)
def test_its_words_are_checked(
    argv: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == code
    assert message in capsys.readouterr()[0 if code == 0 else 1]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("clip 21", "exclude=clip 21: no sample of these runs has this key; near it are clip 2"),
        ("zebra*", "exclude=zebra*: no sample of these runs has this key; the first of 12 is clip 0"),
        ("x" * 5000, f"exclude={'x' * 79}…: no sample"),
        ("*", "exclude=* leaves no sample of the baseline a"),
    ],
)
def test_an_exclusion_that_leaves_out_nothing_or_all_is_one_line(
    three_runs: Destination, exclude: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"exclude={exclude}", f"uri={three_runs.uri}", "sweep=night"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert len(err) < 400


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (f"margin={'9' * 5000}", "expected a number between 0 and 1"),
        ("margin=nan", "margin=nan: expected a number between 0 and 1"),
        ("out=a\0b", "contains a NUL byte"),
        ("out=~nobody-of-this-name/x", "no home folder is known for ~nobody-of-this-name"),
        ("out=\ud800", "expected text in UTF-8"),
        ("by=colour", "by=colour: no such setting of these runs"),
        (f"by={'x' * 5000}", "no such setting of these runs"),
    ],
)
def test_a_word_that_means_nothing_is_one_short_line(
    three_runs: Destination, word: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, f"uri={three_runs.uri}", "sweep=night"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert len(err) < 400


def test_every_table_is_written_in_the_formats_that_are_named(
    three_runs: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["format=csv,latex", f"uri={three_runs.uri}", "sweep=night", f"out={tmp_path}"]) == 0
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{name}.{suffix}" for name in ("stages", "attribution", "facts") for suffix in ("csv", "tex")}
    assert "tables/stages.csv" in capsys.readouterr().out
    assert main(["format=xlsx", f"uri={three_runs.uri}", "sweep=night"]) == 2
    assert "format=xlsx: expected one or several of csv, latex, md" in capsys.readouterr().err
