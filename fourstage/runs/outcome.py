"""How a job ended: its status, its run, its figures; and the file that carries this between processes."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fourstage.credentials import masked
from fourstage.stages import UserError

OUTCOME = "outcome.json"  # in the job's folder
NOT_STARTED = "NOT_STARTED"  # a job's status where the sweep ended before it


@dataclass
class Outcome:
    """How a job ended."""

    status: str  # FINISHED, FAILED, KILLED; SKIPPED: measured before; DUPLICATE: same as another job; NOT_STARTED
    name: str = ""
    job: int | None = None
    run_id: str | None = None
    why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    delivered: bool = True
    code: int = 0  # of the process that ran it (`exit_codes.py`)
    folder: str = ""  # with the run's files; "" where the job made none


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write how a job ended to where the process that started the sweep looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / f"{OUTCOME}.making"
    making.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    making.replace(folder / OUTCOME)


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome that a job's process left in its folder; None where it left none."""
    path = folder / OUTCOME
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def describe_error(error: Exception) -> str:
    """An error in one text: a UserError's own message, any other with its type before it."""
    return masked(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


def is_disk_full(error: Exception) -> bool:
    """Whether a full disk is the cause."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
