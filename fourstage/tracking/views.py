"""What MLflow's own UI shows of an experiment: views with the main figures as columns and charts, and where they are.

Nobody but the user can choose the columns that the runs page shows at first; but an experiment can have saved views,
each a tag of it, listed under "Views" and reached by an address. An experiment gets ours once: all runs, and runs under
their sweeps. Left out: what the figures are (`records/figures.py`).

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

from fourstage.records.figures import OF_STAGE, TOKENS_OUT, TOTAL, TPOT, VIEW_CHARTS, VIEW_COLUMNS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

VERSION = "2"  # raise it with a change of what is below: experiments that have an older one get the new
VERSION_TAG = "fourstage.views"
VIEW_TAG = "mlflow.sharedViewState."  # before a view's key
NOTE_TAG = "mlflow.note.content"
# MLflow's own tag of runs whose traces it compares. Not "evaluation": MLflow 3.17 unfolds the parents of such runs
# after it has drawn its table, and with several parents may draw the runs of one over the next, whoever logged them
EVALUATION = {"mlflow.runType": "genai_evaluate"}
MADE_MS = 0  # views are listed newest first: ours after the user's own

NAVIGATION = "workflowType=machine_learning"  # has runs beside traces; the UI's own at first has no runs
KEY, NAME = "fourstage", "Stages, tokens, TPOT, total"
SWEEPS_KEY, SWEEPS_NAME = "fourstage-sweeps", "Sweeps"
SWEEP = "fourstage.sweep"
MEASURED = f"metrics.`{TOTAL.metric}` >= 0"  # no parents of sweeps, nothing that left no figure
# widths in pixels, so that a screen of 1440 shows a run's name and begin, settings, stages, TPOT, tokens and validity
OWN = {"attributes.`Run Name`": 175, "runDateAndNestInfo": 118}  # MLflow's columns, always there
SETTINGS = {"model.name": 96, "precision": 70, "temperature": 70}
WIDTHS = (66, 80, 78, 78, 66, 64, 72, 75, 130, 100, 110)  # of VIEW_COLUMNS
VALID = {"fourstage.valid": 72}
OLDER_WIDTH = 130  # of times in seconds, which runs of earlier versions have alone
MOST_IN_A_CHART = 20
SECTION = "fourstage-figures"


def prepare(client: MlflowClient, experiment: Experiment) -> None:
    """Give an experiment our view and a description, once: what users change or delete stays so.

    Raises MlflowException where the store refuses.
    """
    if experiment.tags.get(VERSION_TAG) == VERSION:
        return
    experiment_id = str(experiment.experiment_id)
    tags = {
        f"{VIEW_TAG}{KEY}": saved_view(NAME, _state()),
        f"{VIEW_TAG}{SWEEPS_KEY}": saved_view(SWEEPS_NAME, _state() | _grouped()),
    }
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


def address(server: str, experiment_id: str, mode: str = "", key: str = KEY) -> str:
    """Where a view is seen; `mode`: CHART for its charts, ARTIFACT for the texts side by side."""
    return f"{server.rstrip('/')}/{_place(experiment_id, mode, key)}"


def comparison_address(server: str, experiment_id: str) -> str:
    """Where MLflow compares runs sample by sample."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/evaluation-runs"


def _place(experiment_id: str, mode: str = "", key: str = KEY) -> str:
    shown = f"&compareRunsMode={mode}" if mode else ""
    return f"#/experiments/{experiment_id}/runs?{NAVIGATION}&viewStateShareKey={key}{shown}"


def addresses(server: str, uri: str) -> dict[str, str]:
    """Experiment → where its view is seen, for each experiment of a store that has one. Raises UserError."""
    from fourstage.tracking.failures import reporting
    from fourstage.tracking.store import check_existing, client_of, set_up_mlflow

    set_up_mlflow()
    check_existing(uri)
    with reporting(uri):
        found = client_of(uri).search_experiments()
    return {item.name: address(server, str(item.experiment_id)) for item in found if VERSION_TAG in item.tags}


def note(experiment_id: str) -> str:
    """The experiment's description, in Markdown: where to look."""
    figures, charts, texts = (_place(experiment_id, mode) for mode in ("", "CHART", "ARTIFACT"))
    sweeps = _place(experiment_id, key=SWEEPS_KEY)
    folded = f"#/experiments/{experiment_id}/runs?{NAVIGATION}"
    compared = comparison_address("", experiment_id).lstrip("/")
    return (
        f"Every run: [stages, tokens, TPOT, total]({figures}), [as charts]({charts}), "
        f"[texts side by side]({texts}), [sample by sample]({compared}) (choose runs, then Actions, Compare). "
        f"[Sweeps and their runs]({sweeps}), [sweeps folded]({folded})."
    )


def saved_view(name: str, state: Mapping[str, Any]) -> str:
    """The value of a view's tag, as MLflow 3.17 writes it: name and time plain, the state deflated, in base64."""
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": MADE_MS, "state": f"deflate;{packed}"})


def _state() -> dict[str, Any]:
    """What the view holds: the fields of the runs page's state and search that differ from MLflow's own."""
    figures = dict(zip(VIEW_COLUMNS, WIDTHS, strict=True))
    seen = (*OF_STAGE, TOTAL, TPOT, TOKENS_OUT)
    widths = {_column("params", name): width for name, width in SETTINGS.items()}
    widths |= {_column("metrics", figure.column): figures[figure] for figure in seen}
    widths |= {_column("tags", name): width for name, width in VALID.items()}
    widths |= {_column("metrics", figure.column): width for figure, width in figures.items() if figure not in seen}
    widths |= {_column("metrics", figure.metric): OLDER_WIDTH for figure in VIEW_COLUMNS if figure.unit == "s"}
    widths |= {_column("tags", SWEEP): 200}
    charts, sections = _charts()
    return {
        "selectedColumns": list(widths),
        "columnOrder": [*OWN, *widths],
        "columnWidths": OWN | widths,
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else sections are sorted by name
        "runsHiddenMode": "FIRST_20_RUNS",
        "searchFilter": MEASURED,
        # of each user newest first; ordered by their begin alone, the UI would fold runs under their parents
        "orderByKey": "tags.`mlflow.user`",
        "orderByAsc": True,
    }


def _grouped() -> dict[str, Any]:
    """Runs under a row for each sweep, which shows the least of its runs: a mean over models says nothing."""
    keys = [{"mode": "tag", "groupByData": SWEEP}]
    return {"groupBy": {"aggregateFunction": "min", "groupByKeys": keys}, "groupsExpanded": {}}


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
