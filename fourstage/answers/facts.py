"""Which facts of a demo scene an answer states, and whether they are true: rules over plain English.

A question asks for facts (`asked`): an open one for the kinds and counts that every camera shows, another for one fact.
An answer states facts (`stated`). Those that were asked or stated are scored: one that was asked and is not stated is
wrong, so an empty answer, a repeated word and a copied question score 0.

    scored = check("Is it day or night?", "It is night.", {"time": "night"})    # {"time": True}
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

KINDS = ("car", "van", "truck")
COLOURS = ("red", "blue", "white", "yellow", "green", "orange")
FACTS = ("vehicles", "kinds", "people", "road", "motion", "speed", "colour", "time")
OPEN = ("vehicles", "kinds", "people")  # what an open question asks for
NUMBERS = {
    "no": 0, "none": 0, "zero": 0, "a": 1, "an": 1, "one": 1, "another": 1, "two": 2, "three": 3, "four": 4, "five": 5,
}  # fmt: skip
CHANCE = {"vehicles": 0.25, "people": 0.25, "road": 1 / 3, "motion": 0.5, "speed": 0.5, "colour": 1 / 6, "time": 0.5}
LONGEST = 4000  # characters of an answer that are read
REPEATED = 12  # words; a phrase of so many at most is found where it is repeated

_NUMBER = rf"(?:{'|'.join(NUMBERS)}|\d{{1,2}})"
_COLOUR = rf"(?:{'|'.join(COLOURS)})"
_VEHICLE = re.compile(rf"\b({_NUMBER}) (?:({_COLOUR}) )?({'|'.join(KINDS)})s?\b")
_VEHICLES = re.compile(rf"\b({_NUMBER}) vehicles?\b")
_PEOPLE = re.compile(rf"\b({_NUMBER}) (?:people|persons?|pedestrians?)\b|\b(nobody)\b")
_BEND = re.compile(r"\b(?:road|it|street)\b[^.,]*?\b(?:bends?|curves?|turns?)\b[^.,]*?\b(left|right)\b")
_STRAIGHT = re.compile(r"\bstraight\b")
_MOTION = re.compile(r"\b(?:lamps?|lights?|they)\b[^.]*?\b(?:run|runs|move|moves|running|moving)\b([^.]*)")
_TIME = re.compile(r"\b(day|daylight|daytime|night)\b")
_SIDE = re.compile(r"\b(left|right)\b")
_SPEED = re.compile(r"\b(slow|slowly|fast|quickly)\b")
_YES_NO = re.compile(r"\b(yes|no)\b")
_SPEEDS = {"slow": "slow", "slowly": "slow", "fast": "fast", "quickly": "fast"}
_TIMES = {"day": "day", "daylight": "day", "daytime": "day", "night": "night"}

# the first whose words are all in a question says what it asks; an entry of two facts is a multiple choice
_ASKED = (
    (r"\bhow many vehicles\b|\bcount the vehicles\b", ("vehicles",)),
    (r"\bhow many people\b|\bcount the people\b", ("people",)),
    (r"\b(?:what|which) colour\b", ("colour",)),
    (r"\b(?:how fast|slowly or fast|slow or fast)\b", ("speed",)),
    (r"\bdirection\b.*\blamps\b|\blamps\b.*\bto the left or to the right\b|\bwhich way\b.*\blamps\b", ("motion",)),
    (r"\b(?:day or night|time of day|by day or at night)\b", ("time",)),
    (r"\bhow does the road\b|\broad bend\b|\bshape of the road\b", ("road",)),
)
_OPEN_QUESTION = re.compile(r"\b(?:key elements|main things|describe|what is happening|happened)\b")


def check(question: str, answer: str, attributes: Mapping[str, Any]) -> dict[str, bool]:
    """Each fact that was asked or stated, and whether the answer has it right; {} where no rule knows the question.

    `attributes` are those of a demo scene. A question of yes or no, and a multiple choice, is scored as one fact.
    """
    asked_text = _plain(question)
    said = _said(asked_text, _plain(answer))
    if " a) " in asked_text:
        return {}  # `options.py` scores it
    if (expected := _denied_or_affirmed(asked_text, attributes)) is not None:
        fact, truth = expected
        return {fact: set(_YES_NO.findall(said)) == {"yes" if truth else "no"}}
    truths = true_facts(attributes)
    for pattern, facts in _ASKED:
        if re.search(pattern, asked_text):
            return {fact: _direct(fact, asked_text, said, attributes) for fact in facts}
    if not _OPEN_QUESTION.search(asked_text):
        return {}
    found = stated(said)
    return {fact: found.get(fact) == truths[fact] for fact in FACTS if fact in found or fact in OPEN}


def true_facts(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a scene, in the form of `stated`."""
    vehicles, light = attributes["vehicles"], attributes["light"]
    return {
        "vehicles": len(vehicles),
        "kinds": Counter(vehicle["kind"] for vehicle in vehicles),
        "people": attributes["people"],
        "road": attributes["road"],
        "motion": light["direction"],
        "speed": light["speed"],
        "colour": Counter((vehicle["colour"], vehicle["kind"]) for vehicle in vehicles),
        "time": attributes["time"],
    }


def stated(answer: str) -> dict[str, Any]:
    """The facts that a description states. What it states twice in two ways is there as None: never true."""
    text = _plain(answer)
    found: dict[str, Any] = {}
    named = [(_number(count), colour, kind) for count, colour, kind in _VEHICLE.findall(text)]
    kinds: Counter[str] = Counter()
    for count, _, kind in named:
        kinds[kind] += count
    totals = {_number(count) for count in _VEHICLES.findall(text)}
    if named or totals:
        found["kinds"] = +kinds
        found["vehicles"] = _one(totals | ({kinds.total()} if named else set()))
    if any(colour for _, colour, _ in named):
        found["colour"] = Counter({(colour, kind): 0 for _, colour, kind in named})
        for count, colour, kind in named:
            found["colour"][colour, kind] += count
        found["colour"] = +found["colour"]
    if crowds := {0 if nobody else _number(count) for count, nobody in _PEOPLE.findall(text)}:
        found["people"] = _one(crowds)
    elif named or totals:
        found["people"] = 0  # a description without people says that there are none
    if bends := {*_BEND.findall(text), *(["straight"] if _STRAIGHT.search(text) else [])}:
        found["road"] = _one(bends)
    moves = " ".join(_MOTION.findall(text))
    if sides := set(_SIDE.findall(moves)):
        found["motion"] = _one(sides)
    if speeds := {_SPEEDS[word] for word in _SPEED.findall(moves)}:
        found["speed"] = _one(speeds)
    if times := {_TIMES[word] for word in _TIME.findall(text)}:
        found["time"] = _one(times)
    return found


def _direct(fact: str, question: str, said: str, attributes: Mapping[str, Any]) -> bool:
    """Does the answer to a question for one fact have it right, and nothing against it?"""
    truths = true_facts(attributes)
    if fact == "colour":
        kind = next((kind for kind in KINDS if re.search(rf"\b{kind}\b", question)), None)
        colours = {vehicle["colour"] for vehicle in attributes["vehicles"] if vehicle["kind"] == kind}
        return len(colours) == 1 and set(re.findall(rf"\b{_COLOUR}\b", said)) == colours
    if fact in ("vehicles", "people"):
        noun = _VEHICLES if fact == "vehicles" else _PEOPLE
        words = [count for count in re.findall(rf"\b{_NUMBER}\b", said) if count not in ("a", "an", "another")]
        numbers = {_number(count) for count in words} | ({0} if noun is _PEOPLE and "nobody" in said else set())
        return numbers == {truths[fact]}
    if fact == "motion":
        return set(_SIDE.findall(said)) == {truths[fact]}
    if fact == "speed":
        return {_SPEEDS[word] for word in _SPEED.findall(said)} == {truths[fact]}
    if fact == "time":
        return {_TIMES[word] for word in _TIME.findall(said)} == {truths[fact]}
    ways = {*_SIDE.findall(said), *(["straight"] if _STRAIGHT.search(said) else [])}
    return ways == {truths["road"]}


def _denied_or_affirmed(question: str, attributes: Mapping[str, Any]) -> tuple[str, bool] | None:
    """The fact that a question of yes or no asks about, and whether it is so; None for another question."""
    truths = true_facts(attributes)
    if found := re.fullmatch(rf"is there an? ({'|'.join(KINDS)})\?", question):
        return "kinds", truths["kinds"][found[1]] > 0
    if question == "are there any people?":
        return "people", truths["people"] > 0
    if found := re.fullmatch(r"is it (day|night)\?", question):
        return "time", truths["time"] == found[1]
    if found := re.fullmatch(r"do the lamps run to the (left|right)\?", question):
        return "motion", truths["motion"] == found[1]
    if found := re.fullmatch(r"do the lamps run (slowly|fast)\?", question):
        return "speed", truths["speed"] == _SPEEDS[found[1]]
    return None


def _said(question: str, answer: str) -> str:
    """The answer without a copy of the question; nothing of one that says the same four times in a row."""
    said = answer.replace(question, " ").replace(question.rstrip("?."), " ")
    said = re.sub(r"\b(?:what )?time of day\b|\bhow fast\b", " ", said)
    words = said.split()
    for size in range(1, min(REPEATED, len(words) // 4) + 1):
        same = 0  # words in a row that equal the one `size` before
        for word, before in zip(words[size:], words, strict=False):
            same = same + 1 if word == before else 0
            if same == 3 * size:
                return ""
    return said


def _plain(text: str) -> str:
    return " ".join(text[:LONGEST].lower().split())


def _number(word: str) -> int:
    return NUMBERS[word] if word in NUMBERS else int(word)


def _one(values: set[Any]) -> Any:
    """The only value; None where there are two."""
    return next(iter(values)) if len(values) == 1 else None
