"""Make a dataset from raw recordings: cut into clips, with event images and MP4s, in the layout that runs read.

fourstage prepare dsec root=/data/dsec out=data/dsec-1s                    # 1 s windows, every 0.5 s
fourstage prepare dsec root=/data/dsec out=data/dsec-5s duration=5 step=5 event_images=5
fourstage prepare dsec root=/data/dsec out=data/dsec-1s workers=8          # again: goes on where it stopped

then: fourstage run dataset=eventgpt_json dataset.root=data/dsec-1s

`duration` and `step` are seconds (step: half the duration where it is not given); a clip has `event_images`, or
`event_images_per_second` times its duration. `sequences=a,b` takes these alone, `limit` the first windows of each;
`fps` and `crf` are those of the MP4, `workers` the number of processes. Exit codes: 0 every clip is there; 1 some could
not be made; 2 the command cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence

from fourstage.cli.command import parse_words, run_command
from fourstage.config.values import SettingError, suggest
from fourstage.exit_codes import FAILED, INTERRUPTED
from fourstage.paths import path_of
from fourstage.records.units import first_few, plural
from fourstage.text import say

WORDS = {
    "root": "",
    "out": "",
    "duration": "1",
    "step": "",
    "event_images": "",
    "event_images_per_second": "5",
    "question": "What are the key elements in this scene?",
    "sequences": "",
    "limit": "",
    "fps": "20",
    "crf": "28",
    "workers": "1",
}
SOURCES = ("dsec",)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        if not words or words[0] not in SOURCES:
            found = repr(words[0]) if words else "nothing"
            raise SettingError(f"what to prepare is {found}; {suggest(words[0] if words else '', list(SOURCES))}")
        try:
            return _dsec(parse_words(words[1:], WORDS))
        except KeyboardInterrupt:
            say("error: interrupted; the same command goes on where it stopped")
            return INTERRUPTED

    return run_command(__doc__, argv, command)


def _dsec(words: dict[str, str]) -> int:
    from fourstage.data.dsec import DsecSettings, prepare

    for key in ("root", "out"):
        if not words[key]:
            raise SettingError(f"{key} is missing: give {key}=<folder>")
    out = path_of(words["out"], "out")
    made = prepare(
        DsecSettings(
            path_of(words["root"], "root"),
            out,
            _number(words, "duration"),
            _number(words, "step") if words["step"] else None,
            _whole(words, "event_images") if words["event_images"] else None,
            _number(words, "event_images_per_second"),
            words["question"],
            tuple(name.strip() for name in words["sequences"].split(",") if name.strip()),
            _whole(words, "limit") if words["limit"] else None,
            _whole(words, "fps"),
            _whole(words, "crf"),
            _whole(words, "workers"),
        ),
        say,
    )
    if made.failed:
        say(f"error: {first_few(made.failed, 5, separator='; ')}")
    found = f"{made.clips} {plural('clip', made.clips)}"
    say(f"{out}: {found}, {made.new} windows read now, {made.skipped} without events or images")
    if made.clips:
        say(f"run them: fourstage run dataset=eventgpt_json dataset.root={out}")
    return FAILED if made.failed or not made.clips else 0


def _number(words: dict[str, str], key: str) -> float:
    try:
        return float(words[key])
    except ValueError:
        raise SettingError(f"{key}={words[key]!r}: expected a number") from None


def _whole(words: dict[str, str], key: str) -> int:
    try:
        return int(words[key])
    except ValueError:
        raise SettingError(f"{key}={words[key]!r}: expected a whole number") from None
