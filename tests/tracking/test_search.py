"""Filters as people write them are filters as MLflow reads them."""

from __future__ import annotations

import pytest

from fourstage.tracking.destination import Destination
from fourstage.tracking.reader import find_equal
from fourstage.tracking.search import equals, quote_names
from fourstage.tracking.store import open_store


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (
            'params.model.name = "videollava" and metrics.total_s.median < 2',
            'params.`model.name` = "videollava" and metrics.`total_s.median` < 2',
        ),
        ("metrics.total_s.median<2 AND tags.fourstage.valid='true'", "metrics.`total_s.median`<2 AND "
         "tags.`fourstage.valid`='true'"),
        ("params.`model.name` = 'a' and tags.\"x.y\" != 'b'", "params.`model.name` = 'a' and tags.\"x.y\" != 'b'"),
        ("params.prompt = 'see metrics.total_s.median < 2'", "params.prompt = 'see metrics.total_s.median < 2'"),
        ('params.prompt = "it\'s params.a.b" and metric.a/b-c.d >= 1', 'params.prompt = "it\'s params.a.b" and '
         "metric.`a/b-c.d` >= 1"),
        ("params.precision IN ('fp32','bf16')", "params.`precision` IN ('fp32','bf16')"),
        ("attributes.run_name LIKE 'a%' and start_time > 0", "attributes.run_name LIKE 'a%' and start_time > 0"),
        ("Tags.mlflow.runName ilike '%x%'", "Tags.`mlflow.runName` ilike '%x%'"),
        ("myparams.a.b = 'x'", "myparams.a.b = 'x'"),
        ("", ""),
    ],
)  # fmt: skip
def test_names_get_the_quotes_that_mlflow_needs_and_texts_stay(written: str, read: str) -> None:
    expected = read.replace("params.prompt", "params.`prompt`")
    assert quote_names(written) == expected


def test_a_filter_that_is_quoted_already_stays() -> None:
    once = quote_names("params.model.name = 'a' and metrics.x.y > 1")
    assert quote_names(once) == once


def test_a_text_is_quoted_with_what_it_does_not_hold() -> None:
    assert equals("attributes.run_name", "a b") == "attributes.run_name = 'a b'"
    assert equals("attributes.run_name", "it's") == 'attributes.run_name = "it\'s"'


def test_a_text_with_both_kinds_of_quotes_is_found_and_no_other(store: Destination) -> None:
    client, experiment = open_store(store)
    names = ['it\'s a "b" \\ 100%', 'it_s a "b" \\ 100%', 'it\'s a "b" \\ 1000']
    for name in names:
        client.create_run(experiment, run_name=name, tags={"fourstage.sweep": name})
    for name in names:
        for field in ("attributes.run_name", "tags.`fourstage.sweep`"):
            assert [run.name for run in find_equal(store, field, name, newest=1)] == [name]
            assert [run.name for run in find_equal(store, field, name, also="attributes.status = 'RUNNING'")] == [name]
    assert find_equal(store, "attributes.run_id", names[0]) == []
