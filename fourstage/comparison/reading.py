"""Reading the selected runs: their records as columns, their answers, and which are unusable, with the reason.

Left out: finding runs (`selection.py`), comparing them (`effects.py`).

    runs, files, left_out = read_runs(destination, chosen.runs, Path(folder))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.stages import SampleRecord, UserError
from fourstage.text import one_line

if TYPE_CHECKING:
    from fourstage.comparison.effects import Comparison
    from fourstage.comparison.run_data import RunData
    from fourstage.comparison.selection import LeftOut
    from fourstage.comparison.texts import TextRow
    from fourstage.records.columns import Columns
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import RunFacts

MOST_SECONDS = 1e9  # of a stage: 30 years

TEXT_SAMPLES, TEXT_RUNS = 12, 8  # whose texts and pictures the report shows; records.parquet has all


def read_runs(
    destination: Destination, runs: Sequence[RunFacts], folder: Path
) -> tuple[list[RunData], dict[str, Path], tuple[LeftOut, ...]]:
    """The runs with their columns, where the records of each are, and those that have none, with the reason.

    Records on this machine are read in place, others are downloaded into `folder`. No two runs have one name.
    """
    from fourstage.comparison.grouping import distinct_names
    from fourstage.comparison.run_data import RunData, cached_stages
    from fourstage.comparison.selection import LeftOut
    from fourstage.records.columns import Columns
    from fourstage.tracking.reader import records_file

    names = distinct_names([run.name for run in runs], [run.params for run in runs], [run.run_id for run in runs])
    found, files, left_out = [], {}, []
    for run, name in zip(runs, names, strict=True):
        try:
            path = records_file(destination, run, folder)
            columns = Columns.read(path)
            _refuse_unusable(path, columns)
            cached_stages(run.params)
        except UserError as error:
            left_out.append(LeftOut(name, run.run_id, one_line(str(error))))
            continue
        except Exception as error:  # whatever pyarrow and numpy raise for a damaged file: the others are compared
            why = f"its records.parquet cannot be read: {one_line(str(error)) or type(error).__name__}"
            left_out.append(LeftOut(name, run.run_id, why))
            continue
        files[run.run_id] = path
        found.append(
            RunData(
                run_id=run.run_id,
                name=name,
                params=run.params,
                tags=run.tags,
                metrics=run.metrics,
                columns=columns,
                valid=run.tags.get("fourstage.valid") == "true",
                checks_failed=_listed(run.tags.get("fourstage.checks_failed", "")),
                checks_warned=_listed(run.tags.get("fourstage.checks_warned", "")),
            )
        )
    return found, files, tuple(left_out)


def _refuse_unusable(path: Path, columns: Columns) -> None:
    """Raise UserError for numbers that no measurement gives: a figure of them would be one of nothing."""
    import numpy as np

    from fourstage.records.columns import SECONDS

    for name in SECONDS:
        values = getattr(columns, name)
        wrong = np.flatnonzero((values < 0) | (values > MOST_SECONDS))
        if len(wrong):
            key = columns.keys[columns.key_codes[wrong[0]]]
            raise UserError(f"{path}: {name} of {key} is {values[wrong[0]]:g}: expected seconds from 0")
    if len(columns) and columns.batch_size.min() < 1:
        raise UserError(f"{path}: a batch of {columns.batch_size.min()} samples: expected 1 or more")


def read_texts(found: Comparison, files: Mapping[str, Path], whole: Mapping[str, Columns]) -> tuple[TextRow, ...]:
    """What the first runs answered to the first samples of the baseline; `whole` has all rows of each run's file."""
    from fourstage.comparison.texts import compare_texts

    base = found.runs[found.baseline]
    runs = [base, *(run for run in found.runs if run is not base)][:TEXT_RUNS]
    measured = base.columns.measured
    keys = [measured.keys[code] for code in dict.fromkeys(measured.key_codes.tolist())][:TEXT_SAMPLES]
    return compare_texts([(run.name, first_records(whole[run.run_id], keys, files[run.run_id])) for run in runs])


def first_records(columns: Columns, keys: Sequence[str], path: Path) -> list[SampleRecord]:
    """Of each key the first measured record that succeeded, else the first."""
    import numpy as np

    from fourstage.records.table import read_rows

    code = {key: place for place, key in enumerate(columns.keys)}
    rows = []
    for key in keys:
        of_key = np.flatnonzero((columns.key_codes == code.get(key, -1)) & columns.is_sample)
        if len(of_key):
            done = of_key[columns.ok[of_key]]
            rows.append(done[0] if len(done) else of_key[0])
    return read_rows(path, np.array(sorted(rows), dtype=np.int64))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name and name != "none")
