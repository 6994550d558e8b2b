"""What the parent of a sweep shows: a table of its jobs, a description, and the texts of its runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fourstage.records.figures import JOBS, TOTAL
from fourstage.runs.outcome import Outcome

if TYPE_CHECKING:
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.folder import RunFolder
    from fourstage.tracking.reader import RunFacts

SIDE_BY_SIDE = 24  # runs whose texts the parent's table holds, a column each
JOB_COLUMNS = {figure.field: figure.metric for figure in JOBS} | {  # in the parent's table of jobs: heading → metric
    "samples_ok": "samples_ok",
    "samples_failed": "samples_failed",
}
NOTED_JOBS = 40  # a tag holds 8000 characters


def fill_parent(
    folder: RunFolder,
    outcomes: Mapping[int, Outcome],
    children: Sequence[RunFacts],
    earlier: RunFacts | None = None,
) -> None:
    """The parent's files and note: its jobs with state and main figures, the texts of its runs side by side."""
    jobs = [
        {"job": number, "run": outcome.name, "state": outcome.status, "why": outcome.why, "run_id": outcome.run_id}
        | {heading: outcome.metrics.get(metric) for heading, metric in JOB_COLUMNS.items()}
        for number, outcome in outcomes.items()
    ]
    folder.add_file(
        "jobs.json", {"columns": list(jobs[0]) if jobs else [], "data": [list(job.values()) for job in jobs]}
    )
    tables = ["jobs.json"] if jobs else []
    done = sorted(
        (run for run in children if run.status == "FINISHED"), key=lambda run: int(run.tags.get("fourstage.job", -1))
    )
    if texts := side_by_side(folder.state.destination, done[:SIDE_BY_SIDE]):
        folder.add_file("samples.json", texts)
        tables.insert(0, "samples.json")  # the first is what the UI's artifact view shows
    folder.add_tags({"mlflow.note.content": jobs_note(jobs)})
    folder.add_tags({"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"} for name in tables])})
    states = [outcome.status for outcome in outcomes.values()]
    known = [
        key.removeprefix("jobs_").upper() for key in (earlier.metrics if earlier else ()) if key.startswith("jobs_")
    ]
    counted = dict.fromkeys(["FINISHED", *known, *states])
    folder.add_metrics({f"jobs_{state.lower()}": states.count(state) for state in counted})


def jobs_note(jobs: Sequence[Mapping[str, Any]]) -> str:
    """The parent's description, in Markdown: a row for each of the first jobs, figures as medians."""
    from fourstage.text import markdown_cell

    headings = "".join(f" {figure.heading} |" for figure in JOBS)
    lines = [f"| run | state |{headings}", f"|---|---|{'---|' * len(JOBS)}"]
    for job in jobs[:NOTED_JOBS]:
        figures = "".join(f" {figure.cell(job[figure.field])} |" for figure in JOBS)
        lines.append(f"| {markdown_cell(str(job['run']))} | {job['state'].lower()} |{figures}")
    if len(jobs) > NOTED_JOBS:
        lines.append(f"\n{len(jobs) - NOTED_JOBS} more jobs are in jobs.json.")
    return "\n".join(lines)


def side_by_side(destination: Destination, runs: Sequence[RunFacts]) -> dict[str, Any]:
    """One row a sample, one column a run: what each answered, and how long it took. {} where no run left any.

    In `output` the answers stand together: it is the column that the UI's artifact view shows, and the only one.
    """
    from fourstage.tracking.reader import run_samples

    rows: dict[str, dict[str, Any]] = {}
    columns = ["sample", "question", "reference"]
    answers, times = list[str](), list[str]()
    for run in runs:
        name = run.name if f"{run.name}" not in answers else f"{run.name} (job {run.tags.get('fourstage.job')})"
        answers.append(name)
        times.append(f"{name}: {TOTAL.field}")
        for sample in run_samples(destination, run.run_id):
            row = rows.setdefault(str(sample["sample"]), {key: sample[key] for key in columns})
            row.setdefault(name, sample["output"] if sample["error"] is None else f"failed: {sample['error']}")
            row.setdefault(f"{name}: {TOTAL.field}", sample[TOTAL.field])
    columns += [*answers, *times, "output"]
    for row in rows.values():
        row["output"] = _together({name: str(row[name]) for name in answers if name in row})
    return {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows.values()]} if rows else {}


CELL_CHARS = 280  # that a cell of the UI's artifact view shows, in 7 lines
LEAST_CHARS = 40


def _together(answers: Mapping[str, str]) -> str:
    """The answers under their runs' names, each cut to its share of a cell where they are too long for it."""
    room = CELL_CHARS - sum(len(name) + 4 for name in answers)
    share = room // max(len(answers), 1) if sum(map(len, answers.values())) > room else CELL_CHARS
    share = max(share, LEAST_CHARS)
    texts = {name: text if len(text) <= share else f"{text[: share - 1]}…" for name, text in answers.items()}
    return "\n".join(f"▸ {name}: {text}" for name, text in texts.items())
