"""Text from outside is shown and does nothing."""

from __future__ import annotations

import logging
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourstage.text import markdown_cell, one_line, prepare_output, printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A red car.", "A red car."),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("over\rwritten", "over␍written"),
        ("line\r\nline\n\tline", "line\nline\n\tline"),
        ("\x9b31m \x7f \x00", "\\x9b31m ␡ ␀"),
        ("invoice\u202egnp.exe", "invoice\\u202egnp.exe"),
        ("half \ud83d", "half \\ud83d"),
        ("红色汽车 🚗 naïve", "红色汽车 🚗 naïve"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_what_it_is(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_printable_text_can_be_written_and_holds_no_controls(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert not [letter for letter in shown if ord(letter) < 32 and letter not in "\n\t"]
    assert printable(shown) == shown


@given(st.text())
def test_a_cell_is_one_line_without_a_bare_mark(text: str) -> None:
    cell = markdown_cell(text)
    assert len(cell.splitlines()) <= 1
    assert not set("<>") & set(cell)
    unescaped = cell.replace("\\\\", "")
    assert all(unescaped[i - 1] == "\\" for i, letter in enumerate(unescaped) if letter in "|`*_[]{}~#$")


def test_a_cell_keeps_what_it_says() -> None:
    assert markdown_cell("a|b\n`c` [d](http://e)") == r"a\|b ⏎ \`c\` \[d\](http:&#47;&#47;e)"
    assert markdown_cell("<script>&") == "&lt;script&gt;&amp;"
    assert one_line(" two\n lines ") == "two ⏎ lines"


def test_a_line_shows_the_ends_of_a_word_that_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"error: no run '{'a' * 5000}z' in {'d/' * 100}x")
    assert capsys.readouterr().err == f"error: no run '{'a' * 59}…{'a' * 38}z' in {'d/' * 100}x\n"


def test_what_libraries_log_and_warn_of_is_safe_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    factory, form = logging.getLogRecordFactory(), warnings.formatwarning
    (library := logging.getLogger("library")).addHandler(logging.StreamHandler())
    library.propagate = False
    try:
        prepare_output()
        library.warning("%s at http://me:secret@host", "\x1b[31mred")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            shown = warnings.formatwarning("\x1b[31mred", UserWarning, "file.py", 1)
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = form
    assert "␛[31mred" in shown
    assert capsys.readouterr().err == "␛[31mred at http://host\n"
