"""A real browser for tests: headless Chromium, driven by Playwright, with MLflow's UI in it.

Where it is not installed the test is skipped with the reason, or fails if FOURSTAGE_REQUIRE names `servers`.

    with chromium() as browser:
        ui = Ui(browser, "http://127.0.0.1:5000", Path("build/screenshots"))
        page = ui.open("#/experiments/1/runs")
        ui.keep(page, "runs")
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import absent

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LIMIT_MS = 20_000  # for one thing to appear
NAMES = ("chromium", "chromium-browser", "google-chrome")
SCREEN = {"width": 1600, "height": 900}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    if find_spec("playwright") is None:
        absent("playwright", "pip install 'fourstage[dev]'")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        absent("chromium", "apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # root may not use the sandbox, and a container's /dev/shm is small
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=60_000
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Ui:
    """MLflow's UI as somebody sees it who comes for the first time."""

    browser: Browser
    server: str
    screenshots: Path

    def open(self, place: str, shows: str, width: int = SCREEN["width"]) -> Page:
        """A page, once it shows this text; what the UI puts before it on a first visit is closed."""
        page = self.browser.new_context(viewport={**SCREEN, "width": width}).new_page()
        page.set_default_timeout(LIMIT_MS)
        page.goto(f"{self.server}/{place}")
        page.get_by_text(shows).first.wait_for()
        for name in ("Got it", "Close"):  # a hint that covers the rest, and the assistant's panel
            button = page.get_by_role("button", name=name, exact=True)
            if button.count():
                button.first.click()
        return page

    def keep(self, page: Page, name: str) -> None:
        """Keep what the page looks like now."""
        page.wait_for_timeout(300)  # bars and rows move into their places
        self.screenshots.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=self.screenshots / f"{name}.png")
