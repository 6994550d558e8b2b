"""MLflow's own UI, in a real browser: what a sweep leaves is seen there without hunting.

Screenshots are kept in build/screenshots/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fourstage.cli.run import main
from fourstage.records.figures import OF_STAGE, TOKENS_OUT, TOTAL, TPOT
from fourstage.stages import STAGES
from fourstage.tracking import views
from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import RunFacts, find_runs, run_samples
from fourstage.tracking.store import open_store
from tests.browser import Ui, chromium
from tests.servers import mlflow_server
from tests.small import SMALL, into, jobs_since

if TYPE_CHECKING:
    from playwright.sync_api import Page

STAGE_METRICS = [figure.metric for figure in OF_STAGE]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@dataclass(frozen=True)
class Shown:
    """Two sweeps of both models, and the UI that shows them; `parent` and `jobs` are of the second."""

    ui: Ui
    store: Destination
    experiment_id: str
    parent: RunFacts
    jobs: list[RunFacts]
    earlier: RunFacts
    earlier_jobs: list[RunFacts]

    def place(self, mode: str = "", key: str = views.KEY) -> str:
        return views.address("", self.experiment_id, mode, key).lstrip("/")

    @property
    def list(self) -> str:
        """MLflow's own list of runs."""
        return f"#/experiments/{self.experiment_id}/runs?{views.NAVIGATION}"

    @property
    def every_job(self) -> list[RunFacts]:
        return [*self.earlier_jobs, *self.jobs]


@pytest.fixture(scope="module")
def shown(store: Destination, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("ui")
    with chromium() as browser:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            small = [*SMALL, "max_new_tokens=24", "dataset.samples=3", "dataset.seconds=0.4"]
            for name in ("first", "second"):
                swept = [f"sweep.name={name}", "model=eventgpt,videollava"]
                assert main(["-m", *swept, *into(store), *small]) == 0
        parents = {run.name: run for run in find_runs(store, "tags.`fourstage.role` = 'parent'")}
        jobs = jobs_since(store, 0)
        of = {
            name: [job for job in jobs if job.tags["mlflow.parentRunId"] == run.run_id] for name, run in parents.items()
        }
        with mlflow_server(store.uri, folder) as server:
            _, experiment_id = open_store(store)
            yield Shown(
                Ui(browser, server, SCREENSHOTS), store, experiment_id,
                parents["second"], of["second"], parents["first"], of["first"],
            )  # fmt: skip


def test_at_1440_pixels_the_runs_table_shows_settings_stages_tokens_tpot_total_and_validity(shown: Shown) -> None:
    from playwright.sync_api import expect

    page = shown.ui.open(shown.place(), shown.jobs[0].name, width=1440)
    settings = ("model.name", "precision", "temperature")
    figures = (*OF_STAGE, TOTAL, TPOT, TOKENS_OUT)
    for job in shown.every_job:
        row = page.locator(f'.ag-center-cols-container .ag-row[row-id="{job.run_id}"]')
        cells = {f"params.`{name}`": job.params[name] for name in settings}
        cells["tags.`fourstage.valid`"] = job.tags["fourstage.valid"]
        for column, text in cells.items():
            expect(row.locator(f'[col-id="{column}"]')).to_be_in_viewport(ratio=1)
            expect(row.locator(f'[col-id="{column}"]')).to_have_text(text)
        for figure in figures:
            cell = row.locator(f'[col-id="metrics.`{figure.column}`"]')
            expect(cell).to_be_in_viewport(ratio=1)
            text = cell.inner_text()
            assert float(text) == job.metrics[figure.column]
            assert len(text.replace(".", "").strip("0")) <= (3 if figure.unit == "s" else 4)
    assert page.get_by_text(shown.parent.name, exact=True).count() == 0  # it has no figures of its own
    shown.ui.keep(page, "runs")


def test_the_view_of_sweeps_shows_each_sweep_with_its_runs_under_it(shown: Shown) -> None:
    page = shown.ui.open(shown.place(key=views.SWEEPS_KEY), "Group: first")
    assert page.get_by_test_id("saved-views-trigger").inner_text() == views.SWEEPS_NAME
    for sweep, jobs in ((shown.earlier, shown.earlier_jobs), (shown.parent, shown.jobs)):
        heading = page.get_by_text(f"Group: {sweep.name}").first.bounding_box()
        assert heading is not None
        for job in jobs:
            box = page.locator(f'.ag-row[row-id*="{job.run_id}"]').first.bounding_box()
            assert box is not None
            assert heading["y"] < box["y"]
    heights = _heights(page)
    assert len(heights) == len(set(heights)) == 2 + len(shown.every_job)
    shown.ui.keep(page, "sweeps")


def test_mlflows_own_list_shows_every_sweep_also_when_they_are_unfolded(shown: Shown) -> None:
    from playwright.sync_api import expect

    page = shown.ui.open(shown.list, "matching runs")
    for sweep in (shown.parent, shown.earlier):
        expect(page.locator(f'.ag-row[row-id="{sweep.run_id}"]').first).to_be_in_viewport()
    assert len(set(_heights(page))) == 2
    for sweep, jobs in ((shown.parent, shown.jobs), (shown.earlier, shown.earlier_jobs)):
        page.locator(f'.ag-row[row-id="{sweep.run_id}"]').first.get_by_role("button").first.click()
        for job in jobs:
            page.locator(f'.ag-row[row-id="{job.run_id}"]').first.wait_for()
    page.wait_for_timeout(500)
    heights = _heights(page)
    assert len(heights) == len(set(heights)) == 2 + len(shown.every_job)
    shown.ui.keep(page, "list_unfolded")


def test_evaluation_runs_compare_two_runs_sample_by_sample(shown: Shown) -> None:
    page = shown.ui.open(views.comparison_address("", shown.experiment_id).lstrip("/"), "Created at")
    for job in shown.jobs:
        page.get_by_role("row").filter(has=page.locator(f'a[href*="{job.run_id}"]')).get_by_role("checkbox").click()
    page.get_by_role("button", name="Actions").click()
    page.get_by_role("menuitem", name="Compare").click()
    samples = [{str(row["sample"]): row for row in run_samples(shown.store, job.run_id)} for job in shown.jobs]
    page.get_by_text(next(iter(samples[0]))).first.wait_for()
    for key in list(samples[0])[:2]:  # as many as have a trace
        row = page.get_by_role("row").filter(has_text=key)
        assert row.count() == 1  # both runs in one row
        for of_run in samples:
            assert _letters(json.dumps(str(of_run[key]["output"]), ensure_ascii=False)[1:-1])[:20] in _letters(
                row.inner_text()
            )
    shown.ui.keep(page, "compare")


def test_the_jobs_of_a_sweep_are_a_table(shown: Shown) -> None:
    place = f"#/experiments/{shown.experiment_id}/runs/{shown.parent.run_id}/artifacts/jobs.json"
    page = shown.ui.open(place, "jobs.json")
    page.get_by_role("columnheader").get_by_text("samples_ok", exact=True).first.wait_for()
    for job in shown.jobs:
        page.get_by_role("cell", name=job.name).or_(page.get_by_role("gridcell", name=job.name)).first.wait_for()
    shown.ui.keep(page, "jobs")


def test_the_address_of_the_view_is_known_and_a_link_beside_the_runs_leads_to_it(shown: Shown) -> None:
    address = views.address(shown.ui.server, shown.experiment_id)
    assert views.addresses(shown.ui.server, shown.store.uri) == {shown.store.experiment: address}
    page = shown.ui.open(f"#/experiments/{shown.experiment_id}/runs", "texts side by side")
    with page.context.expect_page() as opened:  # links of a description open beside it
        page.get_by_role("link", name="stages, tokens, TPOT, total").click()
    there = opened.value
    there.get_by_text(TOTAL.column, exact=True).wait_for()
    assert there.url.startswith(address)
    assert there.get_by_test_id("saved-views-trigger").inner_text() == views.NAME


def test_charts_compare_stages_tokens_tpot_and_total(shown: Shown) -> None:
    page = shown.ui.open(shown.place("CHART"), views.NAME)
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    shown.ui.keep(page, "charts")
    page.set_viewport_size({"width": 1600, "height": 1800})  # charts out of sight are not drawn
    for name in ("total_s.median", "tpot_ms", "output_tokens.mean", *STAGE_METRICS):
        card = cards.filter(has_text=re.compile(f"^{re.escape(name)}"))
        for job in shown.jobs:
            card.get_by_text(job.name).first.wait_for()
    shown.ui.keep(page, "charts_all")


def test_folded_sweeps_show_the_texts_of_their_runs_together(shown: Shown) -> None:
    page = shown.ui.open(f"{shown.list}&compareRunsMode=ARTIFACT", "demo_day_00")
    for sweep, jobs in ((shown.parent, shown.jobs), (shown.earlier, shown.earlier_jobs)):
        for job in jobs:
            for sample in run_samples(shown.store, job.run_id):
                cell = page.locator(f'.ag-row[row-id="{sample["sample"]}"] [col-id="{sweep.run_id}"]')
                assert _letters(f"{job.name}: {sample['output']}") in _letters(cell.inner_text())
    shown.ui.keep(page, "texts_folded")


def test_an_unfolded_sweep_shows_the_texts_of_its_runs_side_by_side(shown: Shown) -> None:
    from playwright.sync_api import expect

    page = shown.ui.open(f"{shown.list}&compareRunsMode=ARTIFACT", "demo_day_00")
    page.locator(f'.ag-row[row-id="{shown.parent.run_id}"]').get_by_role("button").first.click()
    for job in shown.jobs:
        expect(page.locator(f'[role="columnheader"][col-id="{job.run_id}"]')).to_be_attached()
        for sample in run_samples(shown.store, job.run_id):
            cell = page.locator(f'.ag-row[row-id="{sample["sample"]}"] [col-id="{job.run_id}"]')
            assert _letters(cell.inner_text()) == _letters(str(sample["output"]))
    shown.ui.keep(page, "texts_unfolded")


def test_the_view_compares_the_texts_of_all_runs(shown: Shown) -> None:
    page = shown.ui.open(shown.place("ARTIFACT"), "demo_day_00")
    for job in shown.jobs:
        page.locator(f'[role="columnheader"][col-id="{job.run_id}"]').wait_for()
    assert page.locator(f'[role="columnheader"][col-id="{shown.parent.run_id}"]').count() == 0
    shown.ui.keep(page, "texts")


def test_a_trace_shows_stages_and_prefill_input_output_and_tokens(shown: Shown) -> None:
    job = shown.jobs[0]
    page = shown.ui.open(f"#/experiments/{shown.experiment_id}/runs/{job.run_id}/traces", "question")
    shown.ui.keep(page, "traces")
    sample = run_samples(shown.store, job.run_id)[0]
    page.get_by_text(str(sample["question"])).first.click()
    for span in (*STAGES, "prefill"):
        page.get_by_text(span, exact=True).first.wait_for()
    page.get_by_text(f"{sample['input_tokens'] + sample['output_tokens']} tokens").first.wait_for()
    shown.ui.keep(page, "trace")


def test_the_parents_note_is_a_table_of_its_runs(shown: Shown) -> None:
    page = shown.ui.open(f"#/experiments/{shown.experiment_id}/runs/{shown.parent.run_id}", "Description")
    models = [job.params["model.name"] for job in shown.jobs]  # what differs between them names them
    table = page.locator("table").filter(has=page.get_by_role("cell", name=models[0])).first
    for model in models:
        table.get_by_text(model).first.wait_for()
    shown.ui.keep(page, "parent")


def _heights(page: Page) -> list[float]:
    """Where the rows of the list of runs lie."""
    boxes = [row.bounding_box() for row in page.locator(".ag-pinned-left-cols-container .ag-row").all()]
    return [box["y"] for box in boxes if box is not None]


def _letters(text: str) -> str:
    """What a browser does not change: it hides controls, and puts spaces together."""
    return re.sub(r"[\W_]", "", text)
