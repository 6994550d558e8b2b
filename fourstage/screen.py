"""The screen: the console that everything prints to, and a progress bar over samples.

with Progress(len(planned)) as progress:
    progress.advance(record)
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from fourstage.credentials import masked
from fourstage.stages import SampleRecord
from fourstage.text import one_line, printable


class _Console(Console):
    """A console that shows what would steer a terminal; only rich's own styles do. No word becomes an emoji."""

    def render_str(self, text: str, **options: Any) -> Text:  # every text that is printed passes here
        return super().render_str(printable(masked(text)), **options)


def console(stderr: bool = False) -> Console:
    """A console whose width does not cut a table when the output goes to a file."""
    made = _Console(stderr=stderr, highlight=False, emoji=False)
    return made if made.is_terminal else _Console(stderr=stderr, highlight=False, emoji=False, width=170)


def shown(text: str) -> str:
    """Text from outside for `console`, on one line, without a meaning as markup."""
    return escape(one_line(text))


class Progress:
    """A bar over samples; silent where the output is no terminal."""

    def __init__(self, total: int, done: int = 0):
        screen = console(stderr=True)
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
            auto_refresh=False,  # no thread draws while a stage is timed
        )
        self._task = self._bar.add_task("samples", total=total, completed=done)
        self._failed = 0

    def __enter__(self) -> Progress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def expect(self, total: int) -> None:
        """So many samples are planned by now."""
        self._bar.update(self._task, total=total)

    def advance(self, record: SampleRecord) -> None:
        """One sample is done."""
        self._failed += not record.ok
        label = f"samples [red]({self._failed} failed)[/red]" if self._failed else "samples"
        self._bar.update(self._task, advance=1, description=label)
        self._bar.refresh()


def sample_name(sample_id: str, key: str) -> str:
    """A sample as its dataset calls it, with the key by which runs pair where that is another: `c4 (day/c4.npy)`."""
    return f"{sample_id} ({key})" if sample_id and sample_id != key else key
