r"""Text from outside, made safe to show and to store: what a model answered, what somebody named a run or a file.

Characters that steer a terminal, turn the direction of a line or have no form are shown as what they are. Every line
that a command prints goes through `say` or through `screen.console`, which apply this. Left out: HTML, which its
template escapes, and rich's markup, which rich escapes.

    say("error: \x1b[31mred\n")      # "error: ␛[31mred" on stderr
    printable("\x1b[31mred\r")      # "␛[31mred␍"
    storable("half \ud83d")         # "half \ufffd"
    markdown_cell("a|b\n<script>")  # r"a\|b ⏎ &lt;script&gt;"
"""

from __future__ import annotations

import io
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

from fourstage.credentials import masked

# controls (C0 without tab and line feed, delete, C1), line and paragraph separators, marks and overrides of
# direction, what is not a character, halves of surrogate pairs
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_MARKDOWN = re.compile(r"[\\`*_\[\]{}~#|$]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ENDLESS = re.compile(r"(\S{60})\S{400,}(\S{40})")
_SURROGATES = re.compile("[\ud800-\udfff]")


def say(text: str) -> None:
    """Print one line on stderr, since stdout holds results, without passwords and without what steers a terminal; of a
    word of thousands of letters, which is no word, its two ends."""
    print(_ENDLESS.sub(r"\1…\2", line(masked(text))), file=sys.stderr, flush=True)


def say_traceback() -> None:
    """Print the traceback of the exception that is being handled on stderr, safe to show."""
    print(printable(masked(traceback.format_exc().rstrip())), file=sys.stderr, flush=True)


def prepare_output() -> None:
    """Let stdout and stderr show as an escape what their encoding lacks, where Python would raise an error, and make
    what libraries log and warn of safe to show: they quote names and texts of files."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = _warning


class _Record(logging.LogRecord):
    """What a library logs, without passwords and without what steers a terminal."""

    def getMessage(self) -> str:  # noqa: N802
        return printable(masked(super().getMessage()))


_format_warning = warnings.formatwarning


def _warning(*args: Any, **more: Any) -> str:
    return printable(masked(_format_warning(*args, **more)))


def storable(value: Any) -> Any:
    """A text that every store takes: U+FFFD for each lone half of a surrogate pair, which no UTF-8 holds.

    Goes into mappings, lists and tuples; any other value stays as it is.
    """
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(storable(item) for item in value)
    return value


def is_storable(text: str) -> bool:
    """Whether UTF-8 can hold the text."""
    return _SURROGATES.search(text) is None


def printable(text: str) -> str:
    r"""The text with what steers a terminal shown: `␛` for escape, `\u202e` where there is no picture.

    Lines and tabs stay; "\r\n" is one end of a line.
    """
    return _UNSEEN.sub(_shown, text.replace("\r\n", "\n"))


def line(text: str) -> str:
    """`printable`, on one line and otherwise as it is spaced: `⏎` where a new line began."""
    return printable(text).rstrip("\n").replace("\n", " ⏎ ")


def one_line(text: str) -> str:
    """`printable`, on one line: `⏎` where there was a new one."""
    return " ".join(printable(text).replace("\n", " ⏎ ").split())


def markdown_cell(text: str) -> str:
    """`one_line` as Markdown that shows the text as it is, in a cell of a table, a heading or a sentence.

    Backslashes before what Markdown reads, entities for what HTML reads; a web address becomes no link.
    """
    escaped = _MARKDOWN.sub(r"\\\g<0>", "".join(_ENTITIES.get(letter, letter) for letter in one_line(text)))
    return escaped.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def _shown(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures
    if code == 0x7F:
        return "␡"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
