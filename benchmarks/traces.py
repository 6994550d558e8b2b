"""What does a trace cost, with its spans and assessments?

    python benchmarks/traces.py            # in a temporary folder; a few seconds

Three runs of 16 samples into a new local store; milliseconds a trace, of a processor and elapsed.
"""

from __future__ import annotations

import tempfile
import time

from fourstage.stages import SampleRecord
from fourstage.tracking.destination import Destination
from fourstage.tracking.writer import TrackedRun

RUNS, SAMPLES = 3, 16


def record(number: int) -> SampleRecord:
    return SampleRecord(
        key=f"clip {number}",
        sample_id=str(number),
        position=number,
        started_unix_s=1.7e9 + 5 * number,
        source="png",
        images=5,
        load_s=0.1,
        preprocess_s=0.05,
        encode_s=0.02,
        decode_s=1.234567,
        total_s=1.404567,
        prefill_s=0.2,
        ttft_s=0.37,
        token_s=(0.01,) * 64,
        text_tokens=30,
        visual_tokens=577,
        output_tokens=65,
        finish_reason="length",
        question="What?",
        prompt="USER: What? ASSISTANT:",
        output="A car. " * 20,
        reference="a red car",
    )


def main() -> None:
    store = Destination(f"sqlite:///{tempfile.mkdtemp(prefix='fourstage-bench-')}/mlflow.db", None, "traces")
    TrackedRun.start(store, "warm-up", {}, {}).log_traces([record(0)], 1)
    records = [record(number) for number in range(SAMPLES)]
    for name in range(RUNS):
        run = TrackedRun.start(store, f"run {name}", {}, {})
        elapsed, processor = time.perf_counter(), time.process_time()
        run.log_traces(records, SAMPLES)
        processor, elapsed = time.process_time() - processor, time.perf_counter() - elapsed
        print(f"{1000 * processor / SAMPLES:.1f} ms of a processor, {1000 * elapsed / SAMPLES:.1f} ms elapsed a trace")


if __name__ == "__main__":
    main()
