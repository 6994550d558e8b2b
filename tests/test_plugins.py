"""Plugins are found by name, and a name says one thing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fourstage import plugins
from fourstage.stages import UserError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody else's, with an entry point for each line that a test writes."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.forget()
    yield info / "entry_points.txt"
    plugins.forget()


def test_what_is_shipped_is_found_by_name() -> None:
    assert {"eventgpt", "videollava"} <= set(plugins.names("model"))
    assert {"demo", "eventgpt_json"} <= set(plugins.names("dataset"))
    assert "eager" in plugins.names("engine")
    assert "chrf" in plugins.names("quality")


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_shipped_plugin_has_what_its_kind_needs(kind: str) -> None:
    for name in plugins.names(kind):
        module = plugins.find(kind, name)
        assert [attribute for attribute in plugins.KINDS[kind].attributes if not hasattr(module, attribute)] == []


def test_an_unknown_name_gives_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"unknown model 'eventgtp'; did you mean 'eventgpt'\?"):
        plugins.find("model", "eventgtp")
    with pytest.raises(UserError, match=r"unknown engine 'zzz'; there are compiled, eager, graph"):
        plugins.find("engine", "zzz")


def test_two_plugins_of_one_name_are_refused(installed: Path) -> None:
    installed.write_text("[fourstage.models]\neventgpt = other.model\n")
    with pytest.raises(UserError, match=r"two models are called 'eventgpt': .* and other.model of other; uninstall"):
        plugins.names("model")


def test_a_metric_of_another_package_is_found_with_those_that_are_shipped(installed: Path) -> None:
    installed.write_text("[fourstage.quality]\nlength = other_metric\n")
    (installed.parents[1] / "other_metric.py").write_text("def score(output, reference):\n    return len(output)\n")
    assert plugins.names("quality") == ("accuracy", "bleu", "choice", "chrf", "rouge_l", "length")
    assert plugins.find("quality", "length").score("four", "") == 4
