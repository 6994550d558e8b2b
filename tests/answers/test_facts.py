"""The rules that read facts out of answers: right ones, wrong ones, and ones that only look right."""

from __future__ import annotations

from typing import Any

import pytest

from fourstage.answers.facts import check, stated
from fourstage.answers.options import chosen

SCENE: dict[str, Any] = {
    "time": "night",
    "road": "left",
    "vehicles": [
        {"kind": "car", "colour": "red", "direction": "oncoming"},
        {"kind": "truck", "colour": "white", "direction": "ahead"},
    ],
    "people": 2,
    "sign": "stop sign",
    "light": {"direction": "right", "speed": "fast"},
}
OPEN = "What are the key elements in this scene?"


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("How many vehicles are there?", "There are two vehicles.", True),
        ("How many vehicles are there?", "2", True),
        ("How many vehicles are there?", "There are three vehicles.", False),
        ("How many vehicles are there?", "There are two or three vehicles.", False),
        ("How many vehicles are there?", "There are vehicles.", False),
        ("How many people are there?", "There are two people at the side of the road.", True),
        ("How many people are there?", "There is nobody.", False),
        ("In which direction do the lamps on the board run?", "The lamps run to the right.", True),
        ("In which direction do the lamps on the board run?", "They move to the left.", False),
        ("Do the lamps run to the left or to the right?", "To the left or to the right.", False),
        ("Are the lamps slow or fast?", "They move fast.", True),
        ("Are the lamps slow or fast?", "The lamps run slowly.", False),
        ("Is it day or night?", "It is night.", True),
        ("Is it day or night?", "It is day.", False),
        ("Is it day or night?", "It is day and night.", False),
        ("How does the road run?", "The road bends to the left.", True),
        ("How does the road run?", "It is a straight road.", False),
        ("What colour is the truck?", "The truck is white.", True),
        ("What colour is the truck?", "It is red.", False),
        ("What colour is the truck?", "It is red and white.", False),
        ("Is there a van?", "No.", True),
        ("Is there a van?", "Yes.", False),
        ("Is there a van?", "Yes and no.", False),
        ("Is it night?", "Yes, it is.", True),
        ("Do the lamps run slowly?", "No.", True),
    ],
)
def test_one_fact_is_right_or_wrong(question: str, answer: str, right: bool) -> None:
    assert list(check(question, answer, SCENE).values()) == [right]


def test_a_true_description_is_right_in_all_that_it_states() -> None:
    said = (
        "The key elements in this scene at night are a road that bends to the left, a red car, a white truck, two "
        "people at the side of the road and a board whose lamps run to the right, fast."
    )
    assert set(check(OPEN, said, SCENE).values()) == {True}
    assert len(check(OPEN, said, SCENE)) == 8


@pytest.mark.parametrize(
    ("true", "false", "fact"),
    [
        ("a red car", "a blue car", "colour"),
        ("a red car", "a red van", "kinds"),
        ("a red car, ", "", "vehicles"),
        ("two people", "three people", "people"),
        ("bends to the left", "bends to the right", "road"),
        ("run to the right", "run to the left", "motion"),
        ("fast", "slow", "speed"),
        ("at night", "by day", "time"),
    ],
)
def test_each_wrong_statement_in_a_description_is_found(true: str, false: str, fact: str) -> None:
    said = (
        "The key elements in this scene at night are a road that bends to the left, a red car, a white truck, two "
        "people at the side of the road and a board whose lamps run to the right, fast."
    )
    assert not check(OPEN, said.replace(true, false), SCENE)[fact]


def test_a_description_is_not_asked_for_what_only_one_camera_shows() -> None:
    said = "The scene shows a car, a truck and two people."
    assert check(OPEN, said, SCENE) == {"vehicles": True, "kinds": True, "people": True}


@pytest.mark.parametrize(
    "question", [OPEN, "Is it day or night?", "How many people are there?", "What time of day is it?",
                 "How fast do the lamps on the board run?"],
)  # fmt: skip
@pytest.mark.parametrize("answer", ["", "car " * 60, "at night at night " * 9, "It is night. " * 20, "two " * 50])
def test_empty_and_repeated_answers_are_wrong(question: str, answer: str) -> None:
    assert not any(check(question, answer, SCENE).values())


@pytest.mark.parametrize(
    "question", [OPEN, "Is it day or night?", "What time of day is it?", "How fast do the lamps on the board run?",
                 "Is it night?", "Do the lamps run to the right?"],
)  # fmt: skip
def test_a_copy_of_the_question_is_wrong(question: str) -> None:
    assert set(check(question, question, SCENE).values()) == {False}


def test_what_no_rule_knows_is_not_scored() -> None:
    assert check("What is the driver's name?", "It is night.", SCENE) == {}


def test_a_contradiction_is_no_statement() -> None:
    assert stated("There are two vehicles: a car.")["vehicles"] is None
    assert stated("It is night. It is day.")["time"] is None


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("B) two", "B"), ("The answer is B) two.", "B"), ("two", "B"),
        ("There are two.", "B"), ("", ""), ("A or B", ""), ("A) one B) two C) three", ""), ("four", ""),
        ("one two", ""), ("D", ""),
    ],
)  # fmt: skip
def test_an_option_is_taken_by_its_letter_or_its_words(answer: str, letter: str) -> None:
    assert chosen(answer, ("one", "two", "three")) == letter
