"""Give generated bad input to the real command and say what it did wrong.

    python -m tests.faults --cases 3000 --seed 1           # many processors: --only clips, --only settings ...
    python -m tests.faults --cases 300 --seed 1 --at 17    # one of its commands again, with what it prints

Held of each: no traceback, no control character on the screen, no wrong picture, an exit code of the README, a
message of few lines, at most 20 s of a processor and 1 s more for each further file; of the process at most 3 GiB.
Prints a line for each fault and exits with 1 where there is one. The commands run in a process of their own, so that
one that hangs is found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CPU_S, SAMPLE_CPU_S, WALL_S, PEAK_BYTES, ADDRESS_BYTES = 20.0, 1.0, 150.0, 3 << 30, 16 << 30
MOST_LINES, MOST_BYTES = 120, 60_000
STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="kinds of input, else all")
    parser.add_argument("--at", type=int, help="only this command, shown")
    parser.add_argument("--json", action="store_true", help="print everything as JSON at the end")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(Path(asked.worker), asked)
        return 0
    found = drive(asked)
    if asked.json:
        print(json.dumps(found))
        return 0
    print(f"{found['cases']} cases in {found['commands']} commands, {len(found['faults'])} faults, "
          f"{found['cpu_s']:.0f} s of a processor, {found['peak_bytes'] / 2**30:.2f} GiB at most")  # fmt: skip
    return 1 if found["faults"] else 0


def drive(asked: argparse.Namespace) -> dict[str, Any]:
    """Run the worker; end it where a command takes too long."""
    faults: list[str] = []
    cases = commands = 0
    kinds: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="fourstage-faults-") as root:
        environment = os.environ | {"FOURSTAGE_CACHE": f"{root}/cache", "HF_HUB_OFFLINE": "1",
                                    "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}  # fmt: skip
        command = [sys.executable, "-m", "tests.faults", *sys.argv[1:], "--worker", root]
        worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert worker.stdout is not None
        now, buffer = "the imports", b""
        while True:
            ready, _, _ = select.select([worker.stdout], [], [], WALL_S)
            if not ready:
                worker.kill()
                faults.append(f"{now}: hangs for {WALL_S:.0f} s")
                break
            if not (read := os.read(worker.stdout.fileno(), 1 << 16)):
                break
            *lines, buffer = (buffer + read).split(b"\n")
            for line in map(json.loads, lines):
                now = line["name"]
                if "faults" in line:
                    cases += line["cases"]
                    commands += 1
                    kinds[line["kind"]] = kinds.get(line["kind"], 0) + line["cases"]
                    faults += (new := [f"{now}: {fault}" for fault in line["faults"]])
                    if not asked.json:
                        print(*new, sep="\n", end="\n" * bool(new), flush=True)
                    if asked.at is not None:
                        print(f"{now} {line['words']}\nexit code {line['code']}\n{line['screen']}")
        _, status, usage = os.wait4(worker.pid, 0)
        worker.returncode = os.waitstatus_to_exitcode(status)
    if worker.returncode:
        faults.append(f"{now}: the process ended with {worker.returncode}")
    peak = usage.ru_maxrss * 1024
    if peak > PEAK_BYTES:
        faults.append(f"the process took {peak / 2**30:.2f} GiB")
    return {"cases": cases, "commands": commands, "kinds": kinds, "faults": faults, "peak_bytes": peak,
            "cpu_s": usage.ru_utime + usage.ru_stime}  # fmt: skip


def work(root: Path, asked: argparse.Namespace) -> None:
    """In a process of its own: every command, one after the other, each told before and after on stdout."""
    from tests.faults.cases import trials

    tell = os.fdopen(os.dup(1), "w", buffering=1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    place = root / "place"
    place.mkdir()
    os.chdir(place)
    good = {}
    if not asked.only or "checkpoints" in asked.only:
        from tests.models.test_checkpoints import publish, publish_hf

        good = {"eventgpt": publish(root / "eventgpt"), "videollava": publish_hf(root / "videollava")}
    for number, trial in enumerate(trials(root / "input", asked.seed, asked.cases, good, tuple(asked.only))):
        if asked.at not in (None, number):
            continue
        name = f"[{number}] {trial.kind} {trial.names[0] if len(trial.names) == 1 else ''}"
        print(json.dumps({"name": name}), file=tell)
        code, screen, faults = one(trial)
        line = {"name": name, "kind": trial.kind, "cases": len(trial.names), "faults": faults}
        if asked.at is not None:
            line |= {"words": trial.words, "code": code, "screen": screen.decode(errors="backslashreplace")}
        print(json.dumps(line), file=tell)


def one(trial: Any) -> tuple[int, bytes, list[str]]:
    """Run a command here; gives its exit code, what it printed and its faults."""
    from fourstage.cli.run import main as command
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.reader import find_runs

    begun = time.process_time()
    code, screen = -1, b""
    try:
        with on_screen() as shown:
            code = command(list(trial.words))
    except BaseException as error:
        return code, shown(), [f"raises {type(error).__name__}: {error}"]
    screen = shown()
    faults = list(faults_of_screen(screen))
    # a hang is one case's: the others of the command may take what they take on a busy processor
    if (took := time.process_time() - begun) > CPU_S + SAMPLE_CPU_S * (len(trial.names) - 1):
        faults.append(f"takes {took:.0f} s of a processor")
    if code not in trial.codes:
        faults.append(f"exit code {code}, expected {trial.codes}: {screen[-300:]!r}")
    if code == 2 and b"error:" not in screen and b"usage:" not in screen:
        faults.append(f"exit code 2 without a message: {screen[-300:]!r}")
    if trial.samples and code == 0:
        store = Destination("sqlite:///mlruns/mlflow.db", "mlruns/artifacts", "fourstage")
        faults += faults_of_pictures(trial, store, find_runs(store, newest=1)[0].run_id)
    return code, screen, faults


@contextmanager
def on_screen() -> Iterator[Any]:
    """What is written to stdout and stderr meanwhile, by Python or by a library in C."""
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(1), os.dup(2)]
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        found = []

        def shown() -> bytes:
            return found[0] if found else b""

        try:
            yield shown
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            for descriptor in kept:
                os.close(descriptor)
            file.seek(0)
            found.append(file.read())


def faults_of_screen(screen: bytes) -> Iterator[str]:
    try:
        text = screen.decode()
    except UnicodeDecodeError as error:
        yield f"prints what is no UTF-8: {error}"
        text = screen.decode(errors="replace")
    if steering := STEERS.search(text):
        yield f"hands {steering[0]!r} to the terminal: {text[max(0, steering.start() - 120) :][:160]!r}"
    if "Traceback" in text:
        yield f"prints a traceback: …{text[-400:]!r}"
    if text.count("\n") > MOST_LINES or len(screen) > MOST_BYTES:
        yield f"prints {text.count(chr(10))} lines, {len(screen)} bytes"


def faults_of_pictures(trial: Any, store: Any, run_id: str) -> Iterator[str]:
    """What the records say of each sample against what others decode of its files."""
    from fourstage.config.compose import compose
    from fourstage.config.schema import check
    from fourstage.data.media import read_event_images, read_video_frames
    from fourstage.data.samples import read_samples
    from fourstage.tracking.reader import run_records
    from tests.faults.decode import wrong_picture

    config = check(compose(list(trial.words)))
    samples = read_samples(config.dataset)
    records = [record for record in run_records(store, run_id) if record.role == "sample"]
    if [record.key for record in records] != [sample.key for sample in samples]:
        yield f"{len(records)} records of {len(samples)} samples"
        return
    if len(samples) != len(trial.names):
        yield f"{len(samples)} samples, {len(trial.names)} were listed"
    for name, sample, record in zip(trial.names, samples, records, strict=True):
        if not record.ok:
            if "\n" in (record.error or "") or len(record.error or "") > 900:
                yield f"{name}: a message of {len(record.error or '')} characters: {(record.error or '')[:300]!r}"
            continue
        if config.model.name == "eventgpt":
            media = read_event_images(sample, max_span_us=None)
        else:
            media = read_video_frames(sample, frames=config.model.frames, rule=config.model.frame_rule)
        if (media.indices, media.clip_length) != (record.image_indices, record.clip_length):
            yield f"{name}: the record says other frames than a later reading"
        if any("may be wrong" in note or "may be lost" in note for note in record.notes):
            continue  # what others make of such damage is no truth; the record says so
        if wrong := wrong_picture(media, sample):
            yield f"{name}: a wrong picture, {wrong} ({record.notes})"


if __name__ == "__main__":
    raise SystemExit(main())
