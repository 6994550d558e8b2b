"""One sample as a trace: its stages as spans, its figures as assessments.

MLflow compares runs sample by sample ("Evaluation runs", then Compare): it pairs the traces of two runs whose inputs
are equal, so the inputs hold what does not depend on the model, and the prompt is an attribute.

Spans are built here, not by MLflow's tracer, which knows one store a process, writes from threads and stores the spans
before their trace, so that MLflow writes each trace a second time. A request stores a trace with its assessments, one
more all spans. Left out: which samples have a trace, and the run that shows it (`writer.py`).

    trace_ids = write_traces(uri, experiment_id, records, fault="failed machine_quiet")
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fourstage.records.figures import OF_STAGE, PREFILL, TOKENS_IN, TOKENS_OUT, TOTAL, TPOT, TTFT, cached_name
from fourstage.records.quality import scores
from fourstage.records.units import significant
from fourstage.stages import STAGES, SampleRecord

if TYPE_CHECKING:
    from mlflow.entities import Span, TraceInfo
    from mlflow.entities.assessment import Assessment

SOURCE = "fourstage"
ASSESSED = (*OF_STAGE, PREFILL, TOTAL, TPOT, TOKENS_IN, TOKENS_OUT)
VALID, REFERENCE = "valid", "reference"  # names of assessments that are no figures
DIGITS = 3  # of a score
USAGE = "mlflow.chat.tokenUsage"
SPANS_PER_CALL = 600
PREVIEW_CHARS = 1000  # MLflow's own limit


def write_traces(uri: str, experiment_id: str, records: Sequence[SampleRecord], fault: str = "") -> list[str]:
    """Write a trace for each record into the store and give their ids.

    `fault`: why their run is invalid, "" where it is valid. Raises MlflowException where the store refuses.
    """
    from mlflow.tracing.client import TracingClient

    client, ids = TracingClient(uri), list[str]()
    spans: list[Span] = []
    for record in records:
        info, own = _trace(record, experiment_id, fault)
        client.start_trace(info)
        ids.append(info.trace_id)
        spans += own
    for start in range(0, len(spans), SPANS_PER_CALL):
        client.log_spans(experiment_id, spans[start : start + SPANS_PER_CALL])
    return ids


def _trace(record: SampleRecord, experiment_id: str, fault: str) -> tuple[TraceInfo, list[Span]]:
    """A trace and its spans: a root with one child for each stage that was reached, laid end to end.

    A failed stage without a time has length 0. Prefill is a child of decode.
    """
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    key = uuid.uuid4()  # not of a random generator that a run seeds
    begin_ns = now_ns = max(1, round(1e9 * record.started_unix_s))  # a clock may be before 1970
    stages: list[Span] = []
    for number, stage in enumerate(STAGES, start=2):
        seconds = getattr(record, f"{stage}_s")
        failed = stage == record.error_stage
        if seconds is None and not failed:
            continue
        end_ns = now_ns + round(1e9 * (seconds or 0.0))
        stages.append(_span(key, number, 1, stage, now_ns, end_ns, record.error if failed else None))
        if stage == STAGES[-1] and record.prefill_s is not None:
            prefill_ns = min(end_ns, now_ns + round(1e9 * record.prefill_s))
            stages.append(_span(key, len(STAGES) + 2, number, PREFILL.heading, now_ns, prefill_ns))
        now_ns = end_ns
    inputs, outputs = {"question": record.question, "sample": record.key}, {"text": record.output}
    attributes = {"mlflow.spanInputs": inputs, "mlflow.spanOutputs": outputs, **_attributes(record)}
    root = _span(key, 1, None, "sample", begin_ns, now_ns, record.error, attributes)
    metadata = {"mlflow.trace_schema.version": "3"}
    if usage := attributes.get(USAGE):
        metadata["mlflow.trace.tokenUsage"] = json.dumps(usage)
    info = TraceInfo(
        trace_id=root.trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=begin_ns // 1_000_000,
        execution_duration=(now_ns - begin_ns) // 1_000_000,
        state=TraceState.OK if record.ok else TraceState.ERROR,
        request_preview=_preview(inputs),
        response_preview=_preview(outputs),
        trace_metadata=metadata,
        tags={"mlflow.traceName": "sample"},
        assessments=assessments(record, fault),
    )
    return info, [root, *stages]


def _span(
    key: uuid.UUID,
    number: int,
    parent: int | None,
    name: str,
    begin_ns: int,
    end_ns: int,
    error: str | None = None,
    attributes: dict[str, Any] | None = None,
) -> Span:
    """A span of the trace `key`, numbered from 1 within it; `parent`: the number of the span around it."""
    from mlflow.entities import Span
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, Status, StatusCode

    values = {"mlflow.traceRequestId": f"tr-{key.hex}", "mlflow.spanType": "UNKNOWN"} | (attributes or {})
    return Span(
        ReadableSpan(
            name,
            context=SpanContext(key.int, number, is_remote=False),
            parent=None if parent is None else SpanContext(key.int, parent, is_remote=False),
            attributes={name: json.dumps(value, ensure_ascii=False) for name, value in values.items()},
            status=Status(StatusCode.OK) if error is None else Status(StatusCode.ERROR, error),
            start_time=begin_ns,
            end_time=end_ns,
        )
    )


def _preview(value: dict[str, Any]) -> str:
    """What lists of traces show of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= PREVIEW_CHARS else f"{text[: PREVIEW_CHARS - 3]}..."


def assessments(record: SampleRecord, fault: str = "") -> list[Assessment]:
    """What MLflow shows beside the answer: times in ms to three digits, tokens, validity, quality; the reference."""
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    source = AssessmentSource(source_type="CODE", source_id=SOURCE)
    why = f"failed in {record.error_stage}: {record.error}" if not record.ok else f"its run {fault}" if fault else None
    made: list[Assessment] = [Feedback(name=VALID, value=why is None, rationale=why, source=source)]
    for figure in ASSESSED:
        if (value := getattr(record, figure.field)) is not None:
            name = cached_name(figure.ms) if figure.stage in record.cached_stages else figure.ms
            shown = figure.in_ms(value) if figure.kind == "time" else int(value)
            made.append(Feedback(name=name, value=shown, source=source))
    for name, score in scores(record).items():
        made.append(Feedback(name=name, value=significant(score, DIGITS), source=source))
    if record.reference.strip():
        made.append(Expectation(name=REFERENCE, value=record.reference, source=source))
    return made


def _attributes(record: SampleRecord) -> dict[str, Any]:
    names = (
        "key",
        "position",
        "repeat",
        "source",
        "images",
        "finish_reason",
        *(figure.field for figure in (PREFILL, TTFT, TPOT)),
        "cache_fill_s",
        "prompt",
    )
    attributes = {name: value for name in names if (value := getattr(record, name)) is not None}
    if record.input_tokens is not None and record.output_tokens is not None:
        attributes[USAGE] = {
            TOKENS_IN.field: record.input_tokens,
            TOKENS_OUT.field: record.output_tokens,
            "total_tokens": record.input_tokens + record.output_tokens,
        }
    return attributes
