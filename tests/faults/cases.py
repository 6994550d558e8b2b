"""Bad runs, generated from a seed: words for the command line, and the files that they name.

for trial in trials(folder, seed=0, count=300):
    main(trial.words)
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourstage.data.formats.demo import JSON_NAME
from tests.faults.media import EVIL, Case, clips, event_files, frame_folders, pictures, whole
from tests.models.bad_checkpoints import cases as checkpoint_cases
from tests.small import SMALL

UNUSABLE, FAILED, FINISHED, KEPT = 2, 1, 0, 3
BATCH = 30  # samples of one dataset


@dataclass(frozen=True)
class Trial:
    """One command: what is bad about it, its words, the exit codes that the README gives it."""

    kind: str
    names: tuple[str, ...]  # of its cases: a dataset has one per sample
    words: tuple[str, ...]
    codes: tuple[int, ...]
    samples: bool = field(default=False)  # whether each case is a sample with a record of its own


SHARES = {
    "clips": 18,
    "pictures": 18,
    "folders": 9,
    "events": 18,
    "entries": 9,
    "json": 9,
    "settings": 24,
    "checkpoints": 9,
}
MEDIA: dict[str, tuple[str, Callable[[Path, random.Random, int], Iterator[Case]]]] = {
    "clips": ("videollava", clips),
    "pictures": ("eventgpt", pictures),
    "folders": ("videollava", frame_folders),
    "events": ("eventgpt", event_files),
    "entries": ("eventgpt", lambda root, rng, count: entries(root, rng, count)),
}


def trials(root: Path, seed: int, count: int, good: dict[str, Path], kinds: tuple[str, ...] = ()) -> Iterator[Trial]:
    """About `count` cases; `good`: a checkpoint's folder for each model."""
    for kind, share in SHARES.items():
        if kinds and kind not in kinds:
            continue
        rng = random.Random(f"{seed} {kind}")
        wanted = max(1, count * share // sum(SHARES.values()))
        if kind in MEDIA:
            for start in range(0, wanted, BATCH):
                yield _dataset(root / f"{kind}{start}", kind, rng, min(BATCH, wanted - start))
        elif kind == "json":
            yield from _json(root / kind, rng, wanted)
        elif kind == "settings":
            yield from itertools.islice(_settings(rng), wanted)
        else:
            yield from _checkpoints(root / kind, rng, wanted, good)


def on(folder: Path) -> tuple[str, ...]:
    return (*SMALL, "tracking.traces=0", "max_new_tokens=2", "dataset=eventgpt_json", f"dataset.root={folder}")


def _dataset(folder: Path, kind: str, rng: random.Random, count: int) -> Trial:
    model, make = MEDIA[kind]
    made = list(make(folder, rng, count))
    text = json.dumps([case.entry for case in made])
    (folder / JSON_NAME).write_text(text)
    extra = ("model.max_span_us=null",) if model == "eventgpt" else (f"model.frame_rule={rng.choice(RULES)}",)
    more = rng.choice([(), (), ("cache=frames",), ("batch_size=3",), ("protocol.audit=true",), ("protocol.io=cold",)])
    words = (*on(folder), f"model={model}", *extra, *more)
    return Trial(kind, tuple(case.name for case in made), words, (FINISHED,), samples=True)


RULES = ("linspace", "arange", "head")

# ---- values of every kind ----

TEXTS = (
    "", " ", "x", EVIL, "\ud83d", "a\ud83d\ude00", "\x00", "a\nb", "\u202e", "e\u0301" * 300, "p" * 5000, ".", "..",
    "/", "../x", "/etc/passwd", "C:\\x", "a\\b", "n" * 256, "d/" * 3000, "~", "~root/x", "http://me:secret@host/x",
    "file:///etc/passwd", "<image>", "<video>", "<event>", "</s>", "{}", "%s%n", "${seed}", "[red]x[/red]", "[/]",
    "null", "1e400", "\u2028", "'; drop table runs; --",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf"), [], {}, [[]], [None], {"a": {"b": [1]}}, ["x"] * 3,
    *TEXTS,
)  # fmt: skip


def entries(root: Path, rng: random.Random, count: int) -> Iterator[Case]:
    """Entries whose texts are bad, some with files of such names."""
    (folder := root / "event_image").mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(folder / "good.png")
    for number in range(count):
        entry = whole(f"entry {number}") | {"event_image": ["good.png"]}
        key, text = (
            rng.choice(["id", "question", "answer", "event_image", "event_data", "further"]),
            rng.choice(TEXTS[1:]),
        )
        if number == 0:
            key = "nothing"
        elif key == "question":
            entry["conversations"][0]["value"] = text
        elif key == "answer":
            entry["conversations"][1]["value"] = text
        elif key == "event_image":
            entry["event_image"] = [text]
            _try_to_copy(folder, text)
        else:
            entry[key] = text
        yield Case(f"{key}={text[:40]!r}", entry)


def _try_to_copy(folder: Path, name: str) -> None:
    """Where a file can have such a name it is there."""
    if "/" in name or name in ("", ".", ".."):
        return
    try:
        shutil.copyfile(folder / "good.png", folder / name)
    except (OSError, ValueError):  # this name is the case of a file that cannot be
        return


# ---- the file that lists a dataset ----


def _json(root: Path, rng: random.Random, count: int) -> Iterator[Trial]:
    root.mkdir(parents=True)
    from PIL import Image

    for number in range(count):
        (folder := root / f"{number}").mkdir()
        (folder / "event_image").mkdir()
        Image.new("RGB", (8, 8), "red").save(folder / "event_image" / "good.png")
        listed = [whole(f"entry {i}") | {"event_image": ["good.png"]} for i in range(2)]
        name, content = _bad_json(listed, rng)
        if content is None:
            (folder / JSON_NAME).symlink_to(name)
        else:
            (folder / JSON_NAME).write_bytes(content)
        yield Trial("json", (name,), on(folder), (FINISHED, FAILED, UNUSABLE))


def _bad_json(listed: list[dict[str, Any]], rng: random.Random) -> tuple[str, bytes | None]:
    kind = rng.choice(["value", "value", "value", "bytes", "bytes", "twice", "digits", "deep", "encoding", "no file"])
    if kind == "value":
        target: Any = rng.choice([listed[0], listed[0], listed[0]["conversations"][0]])
        key, value = rng.choice([*target, "video_data", "mp4_data"]), rng.choice(VALUES)
        if rng.random() < 0.1:
            del target[next(iter(target))]
        target[key] = value
        return f"{key}={str(value)[:40]!r}", json.dumps(listed).encode()
    text = json.dumps(listed)
    if kind == "bytes":
        content = bytearray(text.encode())
        for _ in range(rng.choice([1, 3])):
            content[rng.randrange(len(content))] = rng.choice(b'[]{}",:\\0\x00\x1b\xff ')
        return "bytes", bytes(content)
    if kind == "twice":
        return "a key twice", text.replace('"id":', f'{json.dumps(rng.choice(TEXTS))}: 1, "id": 5, "id":', 1).encode()
    if kind == "digits":
        return "digits", text.replace('"entry 0"', rng.choice(["9" * 5000, "1e999", "-" + "1" * 400, "NaN"])).encode()
    if kind == "deep":
        return "deep", text.replace(
            '"entry 0"', rng.choice(["[" * 90_000, "[" * 900 + "]" * 900, '{"a":' * 9000])
        ).encode()
    if kind == "encoding":
        return "encoding", text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
    return rng.choice([JSON_NAME, "/dev/zero", "/dev/null", "/", "/nowhere", "/proc/self/mem"]), None


# ---- settings ----

WORDS = (
    "", "-1", "-0.0", "1e400", "9" * 5000, "nan", "inf", "null", "[]", "{}", "[1,2]", "{a:1}", "true", "x", "0x10", "~",
    "a b", EVIL.replace("\x00", ""), "\u202e", "${seed}", "${nothing}", "${oc.env:NOTHING}", "${", "'", '"', "a=b", ",",
    "x,", "range(1,3)", "choice(a,b)", "glob(*)", "int(x)", "/", ".", "..", "/dev/null", "/dev/null/x",
    "/proc/self/mem",
    "file:x", "sqlite://", "sqlite:///", "sqlite:////dev/null", "mysql://u:p@h/d", "1e9", "07", "1_000",
    "2024e5", "1:30",
    "p" * 5000, "n/" * 3000, "é" * 200, "\\", "\\'", "$(id)", "a;b", "../x", "???", "!!python/object:os.system", "%00",
    "a\nb", "a\tb", "0.5", "None", "'${seed}'", "1,2", "\ud83d",
)  # fmt: skip
KEYS = (
    "model", "model.source", "model.frames", "model.event_images", "weights", "weights.seed", "weights.path", "dataset",
    "dataset.limit", "dataset.max_sample_bytes", "dataset.question", "dataset.hash", "dataset.root", "dataset.file",
    "precision", "generation", "temperature", "top_p", "top_k", "num_beams", "stop", "engine", "engine.attention",
    "protocol", "protocol.order", "protocol.io", "protocol.target_half_width", "protocol.sentinel", "tracking",
    "tracking.uri", "tracking.experiment", "tracking.wait_s", "tracking.traces", "prompt", "seed", "device",
    "batch_size", "replicates",
    "cache", "study", "run_name", "sweep", "sweep.name", "sweep.resume", "sweep.isolate", "threads", "objective",
    "hydra", "hydra.job.chdir", "hydra.job.name", "hydra.job.num", "hydra.output_subdir", "hydra.mode", "hydra.verbose",
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.searchpath", "hydra/launcher", "hydra/sweeper",
    "hydra/job_logging", "hydra.callbacks.fourstage._target_", "hydra.sweeper.params", "+experiments", "experiments",
    "+new", "++run_name", "~model", "~protocol.io", "temprature", "", "a.b.c.d", EVIL, "run_name.x",
)  # fmt: skip
FLAGS = (
    "--cfg",
    "--cfg=job",
    "--info",
    "--bogus",
    "-cn",
    "-cd",
    "--config-dir=/nowhere",
    "--package=x",
    "--run",
    "-m",
    "-m",
)


def _settings(rng: random.Random) -> Iterator[Trial]:
    """A word or two in place of good ones. A key of Hydra's that writes is given no folder outside the place."""
    while True:
        words = []
        for _ in range(rng.choice([1, 1, 1, 2])):
            key, value = rng.choice(KEYS), rng.choice(WORDS)
            if key == "hydra.run.dir" or key == "hydra.sweep.dir":
                value = rng.choice([value for value in WORDS if value not in ("/", "..", "../x")])
            words.append(f"{key}={value}")
        if rng.random() < 0.12:
            words.append(rng.choice(FLAGS))
        if rng.random() < 0.05:
            words.append(rng.choice(WORDS))
        small = ("dataset.samples=1", "dataset.seconds=0.2", "dataset.width=64", "dataset.height=64")
        if any("\0" in word for word in words):
            continue  # no command line holds one
        quick = (*SMALL, "max_new_tokens=2", "tracking.traces=0", "sweep.compare=false")
        yield Trial("settings", (" ".join(words)[:200],), (*quick, *small, *words), (FINISHED, FAILED, UNUSABLE, KEPT))


# ---- checkpoints ----


def _checkpoints(root: Path, rng: random.Random, count: int, good: dict[str, Path]) -> Iterator[Trial]:
    (folder := root / "data" / "event_image").mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(folder / "good.png")
    shutil.copytree(folder, root / "data" / "video" / "good")
    entry = whole("entry") | {"event_image": ["good.png"], "video_data": "good"}
    (root / "data" / JSON_NAME).write_text(json.dumps([entry]))
    for model, share in (("eventgpt", count - count // 2), ("videollava", count // 2)):
        for number, (name, change) in enumerate(checkpoint_cases(model, rng, share)):
            copy = shutil.copytree(good[model], root / f"{model}{number}")
            change(copy)
            words = (*on(root / "data"), f"model={model}", "weights=pretrained", f"weights.path={copy}")
            yield Trial("checkpoints", (f"{model} {name}",), words, (FINISHED, FAILED, UNUSABLE))
            shutil.rmtree(copy)
