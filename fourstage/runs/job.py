"""A job: one composed run, where its files go, and the sweep that it belongs to.

A job of a sweep may run in another process or on another host: its `Membership` travels there in an environment
variable.

    job = Job(tree, Path("mlruns/hydra/…"), Membership.from_environment(number=3), ("model=videollava",))
    job.title                      # job 3: model=videollava
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SWEEP_VARIABLE = "FOURSTAGE_SWEEP"  # the environment variable in which a job's membership travels


@dataclass(frozen=True)
class Membership:
    """The sweep that a job belongs to, and its number in it."""

    sweep: str  # name of the sweep, and its runs' tag
    parent: str  # run id of the parent
    session: str  # one -m: a resumed sweep has several
    varied: tuple[str, ...] = ()  # the settings that differ between jobs
    job: int = 0
    folder: str = ""  # of the sweep, which holds the parent's files

    @classmethod
    def from_environment(cls, number: int) -> Membership | None:
        """The membership of the job with this number; None where this process runs no job of a sweep."""
        return cls.decode(os.environ[SWEEP_VARIABLE], number) if SWEEP_VARIABLE in os.environ else None

    @classmethod
    def decode(cls, text: str, number: int) -> Membership:
        """The membership that `encoded` wrote, for the job with this number."""
        found = json.loads(base64.urlsafe_b64decode(text.removeprefix("b64-") + "=="))
        return cls(**{**found, "varied": tuple(found["varied"]), "job": number})

    def encoded(self) -> str:
        """In letters, digits, - and _, which need no quotes in Hydra's grammar."""
        return "b64-" + base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode().rstrip("=")


@dataclass(frozen=True)
class Job:
    """One composed run."""

    tree: Mapping[str, Any]  # the composed settings
    folder: Path  # where its files go
    membership: Membership | None = None  # None: a single run
    overrides: tuple[str, ...] = ()

    @property
    def number(self) -> int | None:
        """Its number in the sweep."""
        return self.membership.job if self.membership else None

    @property
    def varied(self) -> dict[str, str]:
        """What differs from the other jobs of its sweep."""
        chosen = dict(text.lstrip("+").split("=", 1) for text in self.overrides if "=" in text)
        return {key: chosen[key] for key in (self.membership.varied if self.membership else ()) if key in chosen}

    @property
    def title(self) -> str:
        """`job 3: model=videollava precision=bf16`: its number and what differs in it."""
        varied = " ".join(f"{key}={value}" for key, value in self.varied.items())
        return f"job {self.number}: {varied or 'as configured'}"
