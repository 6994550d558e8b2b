"""`fourstage compare fail_on=…` tells a build pipeline to stop: by its exit code, on the screen and in compare.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fourstage.cli.compare import main
from fourstage.tracking.destination import Destination
from tests.stores import in_processes, records, sweep

INVALID = {"fourstage.valid": "false", "fourstage.checks_failed": "no_drift"}


def gated(where: Destination, tmp_path: Path, fail_on: str, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what compare.json says."""
    out = tmp_path / "out"
    code = main([f"uri={where.uri}", f"out={out}", f"fail_on={fail_on}", *words])
    found: dict[str, Any] = json.loads((out / "compare.json").read_text())["gate"]
    return code, found


def test_a_regressed_total_fails_the_gate_and_is_named(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(
        where,
        a=(in_processes(records(1)), {}, {}),
        same=(in_processes(records(2)), {}, {}),
        slow=(in_processes(records(3, step=0.2)), {}, {}),
    )
    code, gate = gated(where, tmp_path, "regressed")
    assert (code, gate["failed"], gate["fail_on"]) == (1, True, ["regressed"])
    (reason,) = gate["reasons"]
    assert reason.startswith("slow: total Regressed against a, ")
    assert reason.endswith("x slower")
    out = capsys.readouterr().out
    assert "gate failed (fail_on=regressed)" in out
    assert reason in out


def test_a_faster_total_passes_the_gate(where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(where, a=(in_processes(records(1, step=0.2)), {}, {}), quick=(in_processes(records(2)), {}, {}))
    passed = {"fail_on": ["regressed", "invalid"], "failed": False, "reasons": [], "unjudged": []}
    assert gated(where, tmp_path, "regressed, invalid") == (0, passed)
    assert "gate passed (fail_on=regressed,invalid)" in capsys.readouterr().out


def test_a_total_of_one_process_passes_the_gate_and_is_named(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(where, a=(records(1), {}, {}), slow=(records(3, step=0.2), {}, {}))
    code, gate = gated(where, tmp_path, "regressed")
    assert (code, gate["failed"], gate["unjudged"]) == (0, False, ["slow: not replicated"])
    assert "cannot tell: slow: not replicated" in capsys.readouterr().out


def test_the_reason_of_a_group_names_the_group(where: Destination, tmp_path: Path) -> None:
    runs = {
        f"{model}-{precision}": (
            in_processes(records(seed, step=0.2 if (model, precision) == ("m2", "bf16") else 0.01)),
            {"model.name": model, "precision": precision},
            {},
        )
        for seed, (model, precision) in enumerate((m, p) for m in ("m1", "m2") for p in ("fp32", "bf16"))
    }
    sweep(where, **runs)
    code, gate = gated(where, tmp_path, "regressed", "by=model")
    assert code == 1
    (reason,) = gate["reasons"]
    assert "precision=bf16: " in reason
    assert "total Regressed" in reason


def test_an_invalid_run_fails_the_gate_only_where_that_is_asked_for(where: Destination, tmp_path: Path) -> None:
    sweep(where, a=(in_processes(records(1)), {}, {}), bad=(in_processes(records(2)), {}, INVALID))
    reason = "bad is invalid: it failed no_drift"
    assert gated(where, tmp_path, "invalid") == (
        1,
        {"fail_on": ["invalid"], "failed": True, "reasons": [reason], "unjudged": []},
    )
    assert gated(where, tmp_path, "regressed")[0] == 0


def test_a_run_that_cannot_be_compared_does_not_pass_as_valid(where: Destination, tmp_path: Path) -> None:
    sweep(where, a=(in_processes(records(1)), {}, {}), b=(in_processes(records(2)), {}, {}), gone=(None, {}, {}))
    code, gate = gated(where, tmp_path, "invalid")
    assert code == 1
    (reason,) = gate["reasons"]
    assert reason.startswith("gone is not compared: FINISHED without records.parquet")


def test_without_conditions_there_is_no_gate(
    where: Destination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(where, a=(in_processes(records(1)), {}, {}), slow=(in_processes(records(3, step=0.2)), {}, INVALID))
    assert gated(where, tmp_path, "") == (0, {"fail_on": [], "failed": False, "reasons": [], "unjudged": []})
    assert "gate" not in capsys.readouterr().out


def test_an_unknown_condition_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail_on=regresed"]) == 2
    assert capsys.readouterr().err == "error: fail_on=regresed: expected one or several of regressed, invalid\n"
