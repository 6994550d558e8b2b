"""The screen: the console that everything prints to, and a progress bar over samples.

with Progress(len(planned)) as progress:
    progress.advance(record)
"""

from __future__ import annotations

from types import TracebackType

from rich import progress
from rich.console import Console

from fourstage.stages import SampleRecord


def console(stderr: bool = False) -> Console:
    """A console whose width does not cut a table when the output goes to a file."""
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=170)


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
