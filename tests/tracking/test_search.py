"""Filters as people write them are filters as MLflow reads them."""

from __future__ import annotations

import pytest

from fourstage.stages import UserError
from fourstage.tracking.search import quote_names, quote_text


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
    assert quote_text("a b") == "'a b'"
    assert quote_text("it's") == '"it\'s"'
    with pytest.raises(UserError, match="both kinds of quotes"):
        quote_text('it\'s a "b"')
