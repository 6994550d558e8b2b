"""What a run says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourstage.records.columns import Columns
from fourstage.records.table import RecordFile
from fourstage.report.run_table import print_run
from fourstage.stages import SampleRecord
from fourstage.trust.checks import check_run
from fourstage.trust.evidence import Evidence
from tests.trust.test_checks import EXPECTED


def said(folder: Path, capsys: pytest.CaptureFixture[str], *errors: str | None) -> list[str]:
    with RecordFile(folder / "records.parquet") as file:
        for i, error in enumerate(errors):
            stage = "load" if error else None
            file.append(SampleRecord(f"seq/{i}.npy", f"my id: c{i}", i, error=error, error_stage=stage, total_s=1.0))
    planned = [(f"seq/{i}.npy", 0) for i in range(len(errors))]
    checks = check_run(Evidence.read(file.path, planned=planned, expected=EXPECTED))
    print_run("run", "id", "FAILED", file, Columns.read(file.path).measured, checks, {}, "store")
    return capsys.readouterr().out.splitlines()


def test_a_run_without_a_success_says_its_cause_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(tmp_path, capsys, "no such file" + " at all" * 40, "another") == [
        "INVALID  no sample succeeded; all 2 failed, first my id: c0 (seq/0.npy) in load: no such file"
        + " at all" * 40,
        "FAILED  0 ok, 2 failed   run run  id id  in store",
    ]
    assert said(tmp_path, capsys, "[red]no such file")[0] == (
        "INVALID  no sample succeeded; it failed: my id: c0 (seq/0.npy) in load: [red]no such file"
    )


def test_a_run_with_a_success_names_its_failed_samples_by_id_and_says_its_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(tmp_path, capsys, None, "no such file")
    assert "failed my id: c1 (seq/1.npy) in load: no such file" in lines
    assert any(line.startswith("INVALID  checks: ") for line in lines)
    assert any("as_planned: " in line and "(expected 2 records); failed: seq/1.npy" in line for line in lines)
