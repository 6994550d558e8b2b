"""fourstage from Python, for notebooks and scripts.

    import fourstage

    run = fourstage.run("model=videollava", "temperature=0.2")
    run.metrics["total_s.median"], run.valid
    run.records[["key", "encode_s", "decode_s", "output"]]        # a pandas DataFrame
    one, other = fourstage.sweep("model=eventgpt,videollava", "generation=greedy")
    fourstage.compare(one, other)                                 # shows itself in a notebook
    fourstage.find(model="eventgpt", precision="bf16")            # newest first

Overrides are those of the command line, one text each. Nothing heavy is imported before it is needed. Left out: what
the command line alone does (`ui`, `ingest`, `sync`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fourstage.stages import MeasurementError, SampleError, UserError

if TYPE_CHECKING:
    import pandas as pd

    from fourstage.comparison.effects import Pairwise
    from fourstage.report.layout import Layout
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import RunFacts

__all__ = ["Comparison", "MeasurementError", "Run", "SampleError", "UserError", "compare", "find", "run", "sweep"]

URI, EXPERIMENT = "sqlite:///mlruns/mlflow.db", "fourstage"


@dataclass(frozen=True, eq=False)
class Comparison:
    """A run against another, sample by sample, as `fourstage compare` reports it."""

    layout: Layout = field(repr=False)

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        return self.layout.headline

    @property
    def verdict(self) -> str:
        """Of the total time: Improved, Regressed, Equivalent or Inconclusive."""
        return str(self._pair.verdict)

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Total time, target / baseline: estimate and the limits of its 95 % interval; NaN where nothing pairs."""
        total = self.figures.loc["total"] if "total" in self.figures.index else None
        if total is None:
            return (math.nan, math.nan, math.nan)
        return float(total["ratio"]), float(total["ratio_low"]), float(total["ratio_high"])

    @cached_property
    def figures(self) -> pd.DataFrame:
        """One row a figure, over the samples that pair: means, difference and ratio with their intervals, verdict.

        Times are in seconds, TPOT in milliseconds; `figures.attrs["units"]` has the unit of each row.
        """
        import pandas as pd

        rows = [
            {
                "figure": row.name,
                "baseline": row.baseline_mean,
                "target": row.target_mean,
                "difference": row.difference.estimate,
                "difference_low": row.difference.low,
                "difference_high": row.difference.high,
                "ratio": row.ratio.estimate,
                "ratio_low": row.ratio.low,
                "ratio_high": row.ratio.high,
                "verdict": "" if row.verdict is None else str(row.verdict),
                "n": row.n,
            }
            for row in self._pair.rows
        ]
        frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["figure"]).set_index("figure")
        frame.attrs["units"] = {row.name: row.unit for row in self._pair.rows}
        return frame

    @property
    def _pair(self) -> Pairwise:
        return self.layout.pairs[0].pair

    def html(self) -> str:
        """The whole report as one HTML page, the same as `report.html`."""
        from fourstage.report.charts import plots_of
        from fourstage.report.html import to_html

        return to_html(self.layout, plots_of(self.layout))

    def _repr_html_(self) -> str:
        """The report in a frame, so that its style does not touch the notebook's."""
        from html import escape

        return f'<iframe srcdoc="{escape(self.html())}" style="width: 100%; height: 44rem; border: 0"></iframe>'

    def __repr__(self) -> str:
        return f"Comparison({self.headline!r})"


@dataclass(frozen=True, eq=False)
class Run:
    """One run as its store has it. Figures are read when they are asked for, and stay as they were then."""

    facts: RunFacts = field(repr=False)
    destination: Destination = field(repr=False)

    @property
    def id(self) -> str:
        """The run's id in MLflow."""
        return self.facts.run_id

    @property
    def name(self) -> str:
        """The run's name."""
        return self.facts.name

    @property
    def status(self) -> str:
        """FINISHED, FAILED, KILLED or RUNNING."""
        return self.facts.status

    @property
    def params(self) -> dict[str, str]:
        """The composed configuration, flattened: `{"model.name": "eventgpt", "precision": "fp32", …}`."""
        return dict(self.facts.params)

    @property
    def tags(self) -> dict[str, str]:
        """Its tags in the store, MLflow's own too."""
        return dict(self.facts.tags)

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the whole run, such as `total_s.median` (seconds), `tpot_ms`, `samples_ok`."""
        from fourstage.records.figures import PER_SAMPLE, cached_name

        of_samples = {name for figure in PER_SAMPLE for name in (figure.per_sample, cached_name(figure.per_sample))}
        return {key: value for key, value in self.facts.metrics.items() if key not in of_samples}

    @property
    def valid(self) -> bool:
        """Whether the run finished and failed none of its checks."""
        return self.status == "FINISHED" and self.facts.tags.get("fourstage.valid") == "true"

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row for each measured sample and repeat, failed ones too; seconds in columns that end in `_s`.

        `records.attrs["units"]` has the unit of each column that has one. Raises UserError where the run left none.
        """
        import pyarrow.parquet as pq

        from fourstage.tracking.reader import records_file

        with TemporaryDirectory() as folder:
            table = pq.read_table(records_file(self.destination, self.facts, Path(folder)))
        frame = table.to_pandas()
        frame.attrs["units"] = {
            column.name: column.metadata[b"unit"].decode()
            for column in table.schema
            if column.metadata and b"unit" in column.metadata
        }
        return frame

    @cached_property
    def checks(self) -> pd.DataFrame:
        """The run's checks, one row each: id, sentence, verdict, value, limit. Raises UserError where it left none."""
        import pandas as pd

        from fourstage.tracking.reader import run_file

        return pd.DataFrame(json.loads(run_file(self.destination, self.facts, "checks.json"))["checks"])

    def __repr__(self) -> str:
        verdict = "valid" if self.valid else "not valid"
        return f"Run({self.name!r}, {self.status}, {verdict}, id={self.id!r})"


def run(*overrides: str) -> Run:
    """Measure one configuration, as `fourstage run` does, and give its run.

    A run that ends as FAILED is given too: look at `status` and `tags["fourstage.error"]`. Raises UserError where the
    overrides or the data cannot be used, or the store did not take the run.
    """
    if any(word in ("-m", "--multirun") for word in overrides):
        raise UserError("-m is a sweep: call fourstage.sweep(…)")
    (only,) = _execute(overrides)
    return only


def sweep(*overrides: str) -> list[Run]:
    """Measure every combination, as `fourstage -m` does, and give the runs in the order of their jobs.

    Jobs that were measured before (`sweep.resume=true`) are among them, also failed ones. Raises UserError as `run`.
    """
    return _execute(("-m", *(word for word in overrides if word not in ("-m", "--multirun"))))


def find(uri: str = URI, experiment: str = EXPERIMENT, **filters: object) -> list[Run]:
    """Runs of a store, newest first: `find(model="eventgpt", precision="bf16", valid=True, name="night*")`.

    A filter is a setting (dots as in `**{"model.frames": 8}`), or name, status, valid, sweep, study, host, device; `*`
    stands for any characters. Parents of sweeps are left out. Raises UserError for a store that is not there or a
    setting that no run has.
    """
    from fourstage.comparison.filters import matching
    from fourstage.comparison.selection import is_parent
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import find_runs

    destination = Destination(uri, None, experiment)
    runs = [facts for facts in find_runs(destination) if not is_parent(facts)]
    wanted = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in filters.items()}
    return [Run(facts, destination) for facts in matching(runs, wanted)]


def compare(baseline: Run, target: Run, margin: float = 0.02) -> Comparison:
    """Compare two runs sample by sample; ratios are target / baseline, times within `margin` are equivalent.

    Raises UserError where the runs left no records, where a run is compared with itself, or where they lie in two
    stores.
    """
    from fourstage.comparison.selection import Chosen
    from fourstage.report.build import lay_out_chosen

    if baseline.destination.uri != target.destination.uri:
        raise UserError(f"{baseline.name} and {target.name} lie in two stores; compare runs of one store")
    if baseline.id == target.id:
        raise UserError(f"baseline and target are the same run, {baseline.name} ({baseline.id})")
    name = f"{baseline.name}-vs-{target.name}"
    chosen = Chosen(name, (baseline.facts, target.facts), 0, (), None, named=True)
    _, (layout,) = lay_out_chosen(baseline.destination, chosen, margin=margin, allow_invalid=True)
    return Comparison(layout)


def _execute(overrides: Sequence[str]) -> list[Run]:
    """The runs of a command line, in the order of its jobs. Raises UserError where the store lacks one of them."""
    from fourstage.cli.run import execute
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.reader import find_equal

    execution = execute(overrides)
    if execution.folder is None:
        raise UserError(f"fourstage {' '.join(overrides)} measures nothing: give settings as key=value")
    destination = RunFolder.open(execution.folder).state.destination
    runs = []
    for outcome in execution.outcomes:
        found = []
        if outcome.run_id is not None:
            found = find_equal(destination, "attributes.run_id", outcome.run_id, newest=1)
        if not found:
            raise UserError(f"{outcome.name} left no run in the store: {outcome.why or 'fourstage sync sends it'}")
        runs.append(Run(found[0], destination))
    return runs
