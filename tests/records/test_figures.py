"""Each figure is spelled once: the table of figures is the only module with its names, and the manual lists it."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import fourstage
from fourstage.records.columns import Columns
from fourstage.records.figures import (
    FIGURES,
    LOAD,
    PER_SAMPLE,
    SHOWN_IN,
    SUMMARISED,
    TOKENS_OUT,
    TPOT,
    TTFT,
    Figure,
    cached_name,
    for_table,
)
from fourstage.records.units import MISSING
from fourstage.stages import SampleRecord

PACKAGE = Path(fourstage.__file__).parent
MANUAL = PACKAGE.parent / "docs" / "figures.md"


def test_a_figure_is_spelled_in_the_table_alone() -> None:
    names = {name for figure in FIGURES for name in (figure.name, figure.field, figure.per_sample, *figure.metrics)}
    found = [
        f"{path.relative_to(PACKAGE)}: {node.value}"
        for path in PACKAGE.rglob("*.py")
        if "legacy" not in path.parts and path.name != "figures.py"  # old files have their own names
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names - {""}
    ]
    assert found == []


def test_fields_are_those_of_records_and_their_columns() -> None:
    known = {field.name for field in fields(Columns)} | {"input_tokens"}
    rates = {"tokens_per_s"}  # made of two columns
    assert {figure.field for figure in FIGURES} - known == rates
    assert all(hasattr(SampleRecord("a", "a", 0), figure.field) for figure in FIGURES if figure.field not in rates)


def test_names_of_metrics_stay_as_they_are() -> None:
    assert [LOAD.metric, TTFT.metric, TPOT.metric, TOKENS_OUT.metric] == [
        "stage1_load_s.median", "ttft_s.median", "tpot_ms", "output_tokens.mean",
    ]  # fmt: skip
    assert [figure.per_sample for figure in PER_SAMPLE] == [
        "stage1_load_s", "stage2_preprocess_s", "stage3_encode_s", "stage4_decode_s", "total_s", "prefill_s", "ttft_s",
        "sample_tpot_ms", "output_tokens",
    ]  # fmt: skip
    assert all(len(figure.metrics) == 7 for figure in SUMMARISED)


def test_a_cell_has_the_unit_that_its_heading_does_not_say() -> None:
    assert (TTFT.cell(0.0412), TPOT.cell(9.9), TOKENS_OUT.cell(48.0), TTFT.cell(None)) == (
        "41.2 ms", "9.90 ms", "48", MISSING,
    )  # fmt: skip


def test_the_table_of_mlflow_gets_four_digits_and_milliseconds_with_three() -> None:
    logged = {LOAD.metric: 0.01234567, "total_s.p99": 0.123456789, TPOT.metric: 3.8265432, "samples_ok": 12345.0}
    found = for_table(logged)
    assert found == {
        LOAD.metric: 0.01235, "load_ms": 12.3, "total_s.p99": 0.123456789, TPOT.metric: 3.827, "samples_ok": 12345.0,
    }  # fmt: skip
    assert for_table({"stage1_load_cached_s.median": 0.01}) == {"stage1_load_cached_s.median": 0.01}  # no column


def test_a_cached_stage_has_another_name_in_either_unit() -> None:
    assert (cached_name(LOAD.name), cached_name(LOAD.ms)) == ("stage1_load_cached_s", "load_cached_ms")


def test_the_manual_lists_every_figure_as_it_is() -> None:
    lines = MANUAL.read_text(encoding="utf-8").splitlines()
    for figure in FIGURES:
        assert row(figure) in lines
    assert {line.split(" | ")[0].strip("| `") for line in lines if line.startswith("| `")} == {f.name for f in FIGURES}
    for where, shown in SHOWN_IN.items():
        assert f"- {where}: {', '.join(figure.heading for figure in shown)}" in lines


def row(figure: Figure) -> str:
    better = {-1: "less", 0: MISSING, 1: "more"}[figure.better]
    statistics = ", ".join(f"`.{name}`" for name in figure.statistics) or MISSING
    return (
        f"| `{figure.name}` | {figure.heading} | {figure.unit} | {better} | {figure.of_run} | {statistics} | "
        f"{f'`{figure.per_sample}`' if figure.per_sample else MISSING} | {figure.meaning} |"
    )
