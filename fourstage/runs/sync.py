"""Deliver the runs that the store did not take, and end those whose process died.

    python -m fourstage.sync                          # every run below mlruns/hydra
    python -m fourstage.sync folder=mlruns/hydra/2026-11-24
    python -m fourstage.sync tracking.uri=http://me:secret@host      # only what goes there, with this password

Each run is sent from its folder (`tracking/folder.py`), whole and once, however often this is called. A run whose
process was killed is sent as KILLED with the samples that it had finished; one that still goes on is left alone.
Exit codes: 0 everything is delivered; 2 the command cannot be used; 3 the store did not take something.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.cli.command import parse_words, run_command
from fourstage.paths import path_of
from fourstage.runs.session import UNDELIVERED, say
from fourstage.stages import UserError

if TYPE_CHECKING:
    from fourstage.tracking.folder import RunFolder

WORDS = {"folder": "mlruns/hydra", "tracking.uri": ""}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        given = parse_words(words, WORDS)  # a password in tracking.uri is kept for its store
        root = path_of(given["folder"], "folder")
        if not root.is_dir():
            raise UserError(f"no folder {root}: run from the folder in which the runs were made, or give folder=<path>")
        return sync(root, given["tracking.uri"])

    return run_command(__doc__, argv, command)


def sync(root: Path, uri: str = "") -> int:
    """Deliver what lies below `root`, of one store only where `uri` names it. Gives the exit code.

    What could not be sent is told and stays.
    """
    from fourstage.tracking.deliver import deliver
    from fourstage.tracking.folder import undelivered
    from fourstage.tracking.patience import WAIT_S, forget, patience_with
    from fourstage.tracking.store import resolved_uri

    forget()
    sent = left = 0
    for folder in undelivered(root):
        state = folder.state
        if uri and state.destination.uri != resolved_uri(uri):
            say(f"left {state.name} ({folder.path}): it goes to {state.destination.uri}")
            continue
        patience_with(state.destination.uri).begin(WAIT_S)
        if state.status == "RUNNING":
            alive = state.process.alive()
            if alive is not False:
                where = "still goes on" if alive else f"may still go on, on {state.process.host}: call sync there"
                say(f"left {state.name} ({folder.path}): it {where}")
                continue
            end_dead(folder)
        try:
            if warning := deliver(folder):
                say(f"warning: {warning}")
            sent += 1
            say(f"sent {state.name} ({folder.state.status}) as run {folder.state.run_id}")
        except UserError as error:
            left += 1
            say(f"error: {error}; {state.name} stays in {folder.path}")
    say(f"{sent} sent, {left} could not be sent" if sent or left else f"nothing to send below {root}")
    return UNDELIVERED if left else 0


def end_dead(folder: RunFolder) -> None:
    """End a run whose process died: KILLED, with the figures of the samples that it had finished."""
    from fourstage.records.columns import Columns
    from fourstage.records.summary import summarise_run
    from fourstage.records.table import read_journal, write_records
    from fourstage.trust.checks import as_dict, as_tags, not_finished

    if records := read_journal(folder.journal):
        write_records(records, folder.records)
        folder.add_metrics(summarise_run(Columns.read(folder.records).measured))
    checks = [not_finished("KILLED", len(records))]
    folder.add_file("checks.json", as_dict(checks))
    folder.add_tags(as_tags(checks) | {"fourstage.error": "its process died"})
    folder.end("KILLED")


if __name__ == "__main__":
    sys.exit(main())
