"""What MLflow's own UI shows of an experiment: a view with the main figures as columns and charts, and where it is.

Nobody but the user can choose the columns that the runs page shows at first; but an experiment can have saved views,
each a tag of it, listed under "Views" and reached by an address. An experiment gets ours once. Left out: what the
figures are (`records/figures.py`).

    prepare(client, client.get_experiment_by_name("fourstage"))
    address("http://127.0.0.1:5000", experiment_id, "CHART")
    addresses("http://127.0.0.1:5000", "sqlite:///mlruns/mlflow.db")     # {"fourstage": "http://127.0.0.1:5000/#/…"}
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fourstage.records.figures import TOKENS_OUT, TOTAL, VIEW_CHARTS, VIEW_COLUMNS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

VERSION = "1"  # raise it with a change of what is below: experiments that have an older one get the new
VERSION_TAG = "fourstage.views"
VIEW_TAG = "mlflow.sharedViewState."  # before a view's key
NOTE_TAG = "mlflow.note.content"
# an evaluation's runs are what the UI shows unfolded under their parent; they are evaluations, of a dataset
UNFOLDED = {"mlflow.runType": "evaluation"}
MADE_MS = 0  # views are listed newest first: ours after the user's own

NAVIGATION = "workflowType=machine_learning"  # has runs beside traces; the UI's own at first has no runs
KEY, NAME = "fourstage", "Stages, tokens, TPOT, total"
MEASURED = f"metrics.`{TOTAL.metric}` >= 0"  # no parents of sweeps, nothing that left no figure
WIDTHS = (100, 130, 110, 115, 100, 75, 115, 90, 110, 100)  # of VIEW_COLUMNS, pixels
TAGS = {"fourstage.valid": 125, "fourstage.sweep": 200}
MOST_IN_A_CHART = 20
SECTION = "fourstage-figures"


def prepare(client: MlflowClient, experiment: Experiment) -> None:
    """Give an experiment our view and a description, once: what users change or delete stays so.

    Raises MlflowException where the store refuses.
    """
    if experiment.tags.get(VERSION_TAG) == VERSION:
        return
    experiment_id = str(experiment.experiment_id)
    tags = {f"{VIEW_TAG}{KEY}": saved_view(NAME, _state())}
    if NOTE_TAG not in experiment.tags:
        tags[NOTE_TAG] = note(experiment_id)
    for key, value in (tags | {VERSION_TAG: VERSION}).items():  # the version last: half a try is tried again
        _set_tag(client, experiment_id, key, value)


def _set_tag(client: MlflowClient, experiment_id: str, key: str, value: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.set_experiment_tag(experiment_id, key, value)
    except MlflowException:  # somebody sets the same at this moment
        if client.get_experiment(experiment_id).tags.get(key) != value:
            raise


def address(server: str, experiment_id: str, mode: str = "") -> str:
    """Where the view is seen; `mode`: CHART for its charts, ARTIFACT for the texts side by side."""
    return f"{server.rstrip('/')}/{_place(experiment_id, mode)}"


def _place(experiment_id: str, mode: str = "") -> str:
    shown = f"&compareRunsMode={mode}" if mode else ""
    return f"#/experiments/{experiment_id}/runs?{NAVIGATION}&viewStateShareKey={KEY}{shown}"


def addresses(server: str, uri: str) -> dict[str, str]:
    """Experiment → where its view is seen, for each experiment of a store that has one. Raises UserError."""
    from fourstage.tracking.store import check_existing, client_of, reporting, set_up_mlflow

    set_up_mlflow()
    check_existing(uri)
    with reporting(uri):
        found = client_of(uri).search_experiments()
    return {item.name: address(server, str(item.experiment_id)) for item in found if VERSION_TAG in item.tags}


def note(experiment_id: str) -> str:
    """The experiment's description, in Markdown: where to look."""
    figures, charts, texts = (_place(experiment_id, mode) for mode in ("", "CHART", "ARTIFACT"))
    sweeps = f"#/experiments/{experiment_id}/runs?{NAVIGATION}"
    return (
        f"Every run: [stages, tokens, TPOT, total]({figures}), [as charts]({charts}), "
        f"[texts side by side]({texts}). [Sweeps and their runs]({sweeps})."
    )


def saved_view(name: str, state: Mapping[str, Any]) -> str:
    """The value of a view's tag, as MLflow 3.17 writes it: name and time plain, the state deflated, in base64."""
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": MADE_MS, "state": f"deflate;{packed}"})


def _state() -> dict[str, Any]:
    """What the view holds: the fields of the runs page's state and search that differ from MLflow's own."""
    widths = {_column("metrics", figure.metric): width for figure, width in zip(VIEW_COLUMNS, WIDTHS, strict=True)}
    widths |= {_column("tags", name): width for name, width in TAGS.items()}
    charts, sections = _charts()
    return {
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else sections are sorted by name
        "runsHiddenMode": "FIRST_20_RUNS",
        "searchFilter": MEASURED,
        # of each user newest first; ordered by their begin alone, the UI would fold runs under their parents
        "orderByKey": "tags.`mlflow.user`",
        "orderByAsc": True,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _charts() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The charts and their sections; every other metric goes into the second, which is folded."""
    charts = [
        *(_chart(figure.metric, "BAR", metricKey=figure.metric) for figure in VIEW_CHARTS),
        _chart(
            "total-tokens", "SCATTER",
            xaxis={"key": TOKENS_OUT.metric, "type": "METRIC"}, yaxis={"key": TOTAL.metric, "type": "METRIC"},
        ),
    ]  # fmt: skip
    sections = [
        _section(SECTION, "Stages, tokens, TPOT, total", shown=True),
        _section("fourstage-others", "Model metrics", shown=False),
        _section("fourstage-system", "System metrics", shown=False),
    ]
    return charts, sections


def _chart(key: str, kind: str, **what: Any) -> dict[str, Any]:
    common = {"runsCountToCompare": MOST_IN_A_CHART, "metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    return {"uuid": f"fourstage-{key}", "type": kind} | common | what


def _section(key: str, name: str, shown: bool) -> dict[str, Any]:
    return {"uuid": key, "name": name, "display": shown, "isReordered": True, "deleted": False, "isGenerated": False}
