"""Take the two pictures of the README: a sweep in MLflow's UI, and its report.

    python docs/screenshots.py            # needs Chromium; two minutes

Runs the sweep in a new folder, so that nothing else is in the store. Writes docs/images/mlflow.png and report.png.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fourstage.tracking.destination import Destination  # noqa: E402
from fourstage.tracking.reader import find_runs  # noqa: E402
from fourstage.tracking.store import open_store  # noqa: E402
from fourstage.tracking.views import NAME, address  # noqa: E402
from tests.browser import Ui, chromium  # noqa: E402
from tests.servers import mlflow_server  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = ROOT / "docs" / "images"
SWEEP = ["model=eventgpt,videollava", "generation=greedy", "max_new_tokens=128", "dataset.samples=12", "replicates=3",
         "sweep.name=demo"]  # fmt: skip
CHARTS = {"x": 204, "y": 16, "width": 1376, "height": 980}  # without the UI's own menu
COLOURS = 128  # a palette keeps text sharp at a third of the size


def main(folder: Path) -> None:
    """Run the sweep in `folder` unless it is there already, and take both pictures."""
    if not (folder / "mlruns").exists():
        command = [sys.executable, "-m", "fourstage.run", "-m", *SWEEP]
        subprocess.run(command, cwd=folder, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    os.chdir(folder)
    store = Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
    jobs = [run for run in find_runs(store) if "fourstage.job" in run.tags]
    (report,) = folder.glob("mlruns/compare/*/report.html")
    with chromium() as browser:
        _picture_of_report(browser, report)
        with mlflow_server(store.uri, folder) as server:
            page = Ui(browser, server, IMAGES).open(address("", open_store(store)[1], "CHART").lstrip("/"), NAME)
            page.set_viewport_size({"width": 1600, "height": 1080})
            page.get_by_label("Hide banner").click()  # "You're viewing a shared view"
            page.get_by_test_id("experiment-view-compare-runs-card").first.get_by_text(jobs[0].name).first.wait_for()
            page.wait_for_timeout(2000)  # charts are drawn one after the other
            page.screenshot(path=IMAGES / "mlflow.png", clip=CHARTS)
    for name in ("mlflow.png", "report.png"):
        _shrink(IMAGES / name)


def _picture_of_report(browser: Browser, report: Path) -> None:
    page = browser.new_context(viewport={"width": 1180, "height": 1080}).new_page()
    page.goto(report.as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / "report.png")


def _shrink(path: Path) -> None:
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).absolute())
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
