"""The view and the description that an experiment gets."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from fourstage.records.figures import VIEW_COLUMNS
from fourstage.tracking import views
from fourstage.tracking.destination import Destination
from fourstage.tracking.store import open_store
from fourstage.tracking.writer import TrackedRun

TAG = f"{views.VIEW_TAG}{views.KEY}"


@pytest.fixture
def destination(tmp_path: Path) -> Destination:
    return Destination(f"sqlite:///{tmp_path}/mlflow.db", None, "study")


def _state(value: str) -> dict[str, Any]:
    """A view's state, read as MLflow's page reads it."""
    state = json.loads(value)["state"]
    assert state.startswith("deflate;")
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(state.removeprefix("deflate;"))))
    return found


def test_an_experiment_gets_a_view_whose_columns_are_what_runs_log_and_links_to_it(destination: Destination) -> None:
    client, experiment_id = open_store(destination)
    tags = client.get_experiment(experiment_id).tags
    state = _state(tags[TAG])
    assert json.loads(tags[TAG])["name"] == views.NAME
    assert {f"metrics.`{figure.metric}`" for figure in VIEW_COLUMNS} <= set(state["selectedColumns"])
    assert {f"metrics.`{figure.column}`" for figure in VIEW_COLUMNS} <= set(state["selectedColumns"])
    assert set(state["columnOrder"]) == set(state["columnWidths"])
    assert set(state["columnOrder"]) - set(state["selectedColumns"]) == set(views.OWN)  # always there
    sweeps = _state(tags[f"{views.VIEW_TAG}{views.SWEEPS_KEY}"])
    assert sweeps["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "fourstage.sweep"}]
    assert {**sweeps, **state, "groupBy": None, "groupsExpanded": None} == {
        **state,
        "groupBy": None,
        "groupsExpanded": None,
    }
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {state["compareRunSections"][0]["uuid"]}
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])
    for mode in ("", "CHART", "ARTIFACT"):
        assert f"({views.address('', experiment_id, mode).lstrip('/')})" in tags[views.NOTE_TAG]
    assert f"({views.address('', experiment_id, key=views.SWEEPS_KEY).lstrip('/')})" in tags[views.NOTE_TAG]
    assert f"({views.comparison_address('', experiment_id).lstrip('/')})" in tags[views.NOTE_TAG]
    run = TrackedRun.start(destination, "named", {}, {})
    run.log_metrics({"total_s.median": 1.0})
    assert [found.info.run_id for found in client.search_runs([experiment_id], state["searchFilter"])] == [run.run_id]


def test_what_a_user_changed_or_deleted_stays_so_until_there_is_a_newer_view(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, experiment_id = open_store(destination)
    client.delete_experiment_tag(experiment_id, TAG)
    client.set_experiment_tag(experiment_id, views.NOTE_TAG, "mine")
    views.prepare(client, client.get_experiment(experiment_id))
    assert TAG not in client.get_experiment(experiment_id).tags
    monkeypatch.setattr(views, "VERSION", "newer")
    views.prepare(client, client.get_experiment(experiment_id))
    tags = client.get_experiment(experiment_id).tags
    assert TAG in tags
    assert tags[views.NOTE_TAG] == "mine"


def test_an_experiment_that_was_there_before_gets_the_view(destination: Destination) -> None:
    client, experiment_id = open_store(destination)
    other = client.create_experiment("made elsewhere")
    _, opened = open_store(Destination(destination.uri, None, "made elsewhere"))
    assert opened == other != experiment_id
    assert TAG in client.get_experiment(other).tags


def test_two_that_set_the_same_tag_at_once_agree_and_another_fault_is_told(destination: Destination) -> None:
    from mlflow.exceptions import MlflowException

    client, experiment_id = open_store(destination)

    class Refusing:
        get_experiment = staticmethod(client.get_experiment)

        def set_experiment_tag(self, *_: str) -> None:
            raise MlflowException("UNIQUE constraint failed")

    (tag, version) = (views.VERSION_TAG, views.VERSION)
    views._set_tag(Refusing(), experiment_id, tag, version)  # type: ignore[arg-type]
    with pytest.raises(MlflowException):
        views._set_tag(Refusing(), experiment_id, tag, "other")  # type: ignore[arg-type]
