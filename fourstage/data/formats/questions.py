"""What is asked about a demo scene, and what is true of it, in varied words.

A question has a kind (KINDS) and several wordings. An answer is written from the scene's attributes in one of three
styles: what an event camera shows (about 45 tokens on the key elements), what a video shows (about 100), and the
reference, which has both.

    rng = np.random.default_rng(0)
    question = ask("motion", scene.attributes, rng)
    question.text                            # "In which direction do the lamps on the board run?"
    answer(question, scene.attributes, "reference", rng)     # "The lamps run to the left."
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fourstage.data.formats.scenes import DIRECTIONS, SPEEDS, VEHICLE_COLOURS, VEHICLE_SIZES

if TYPE_CHECKING:
    from numpy.random import Generator

Style = Literal["event", "video", "reference"]
Attributes = dict[str, Any]  # as a scene has them
NUMBERS = ("no", "one", "two", "three")
LETTERS = "ABCD"
KEY_ELEMENTS = "What are the key elements in this scene?"
# in the order in which a dataset's samples take them; not a divisor of 2, so that day and night meet every kind
KINDS = (
    "key_elements", "vehicles", "motion", "time", "choice", "colour", "people", "describe", "yes_no", "speed", "road",
)  # fmt: skip
WORDINGS = {
    "key_elements": (KEY_ELEMENTS, "Name the key elements of the scene.", "What are the main things in this scene?"),
    "describe": (
        "Describe in detail what happened in the scene.", "Describe the scene.", "What is happening in this scene?",
    ),
    "vehicles": ("How many vehicles are there?", "Count the vehicles.", "How many vehicles can be seen?"),
    "people": ("How many people are there?", "Count the people.", "How many people can be seen?"),
    "motion": (
        "In which direction do the lamps on the board run?", "Do the lamps run to the left or to the right?",
        "Which way do the lamps move?",
    ),
    "speed": (
        "How fast do the lamps on the board run?", "Do the lamps run slowly or fast?", "Are the lamps slow or fast?",
    ),
    "time": ("Is it day or night?", "What time of day is it?", "Is the scene by day or at night?"),
    "road": ("How does the road run?", "Does the road bend?", "What is the shape of the road?"),
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One question about one scene."""

    kind: str
    text: str
    expected: str = ""  # the right value, where the kind alone does not say which attribute is asked
    options: tuple[str, ...] = ()  # of a multiple choice; its answer is the letter of `expected`

    @property
    def letter(self) -> str:
        """The letter of the right option; "" where there are none."""
        return LETTERS[self.options.index(self.expected)] if self.options else ""


def ask(kind: str, attributes: Attributes, rng: Generator, plain: bool = False) -> Question:
    """A question of this kind about a scene; `plain`: in its first wording. Raises ValueError for an unknown kind."""
    if kind in WORDINGS:
        wordings = WORDINGS[kind]
        return Question(kind, wordings[0 if plain else int(rng.integers(len(wordings)))])
    if kind not in _MAKERS:
        raise ValueError(f"unknown kind of question {kind!r}; choose one of {', '.join(KINDS)}")
    return _MAKERS[kind](attributes, rng)


def answer(question: Question, attributes: Attributes, style: Style, rng: Generator) -> str:
    """A true answer in plain English. In the styles of a modality, open questions name what that modality shows."""

    def pick(*wordings: str) -> str:
        return wordings[int(rng.integers(len(wordings)))]

    kind, vehicles, people = question.kind, attributes["vehicles"], attributes["people"]
    light, time = attributes["light"], attributes["time"]
    if kind in ("key_elements", "describe"):
        write = {"event": _seen_by_events, "video": _seen_by_video, "reference": _known}[style]
        return write(kind, attributes, pick)
    if kind == "vehicles":
        count = _count(len(vehicles), "vehicle", "vehicles")
        be = "is" if len(vehicles) == 1 else "are"
        return pick(f"There {be} {count}.", f"There {be} {count} on the road.")
    if kind == "people":
        be = "is" if people == 1 else "are"
        crowd = _count(people, "person", "people")
        return pick(f"There {be} {crowd}.", f"There {be} {crowd} at the side of the road.")
    if kind == "motion":
        return pick(f"The lamps run to the {light['direction']}.", f"They move to the {light['direction']}.")
    if kind == "speed":
        how = {"slow": "slowly", "fast": "fast"}[light["speed"]]
        return pick(f"The lamps run {how}.", f"They move {how}.")
    if kind == "time":
        return pick(f"It is {time}.", f"The scene is {_when(time)}.")
    if kind == "road":
        return pick(f"{_sentence(_road(attributes['road']))}", f"It is {_road_noun(attributes['road'])}.")
    if kind == "colour":
        return pick(f"The {_asked_kind(question)} is {question.expected}.", f"It is {question.expected}.")
    if kind == "yes_no":
        return f"{question.expected.capitalize()}."
    return pick(f"{question.letter}) {question.expected}", f"{question.letter}.")  # a multiple choice


# ---- questions made from a scene ----


def _colour(attributes: Attributes, rng: Generator) -> Question:
    """The colour of a vehicle that is the only one of its kind; without one, of the multiple choice of colours."""
    kinds = Counter(vehicle["kind"] for vehicle in attributes["vehicles"])
    alone = [vehicle for vehicle in attributes["vehicles"] if kinds[vehicle["kind"]] == 1]
    if not alone:
        return ask("time", attributes, rng)
    vehicle = alone[int(rng.integers(len(alone)))]
    wording = (f"What colour is the {vehicle['kind']}?", f"Which colour does the {vehicle['kind']} have?")
    return Question("colour", wording[int(rng.integers(2))], vehicle["colour"])


def _yes_no(attributes: Attributes, rng: Generator) -> Question:
    """A question that as many scenes affirm as deny."""
    yes = bool(rng.integers(2))
    expected = "yes" if yes else "no"
    about = ("kind", "time", "motion", "speed", "people")[int(rng.integers(5))]
    if about == "kind":
        present = sorted({vehicle["kind"] for vehicle in attributes["vehicles"]})
        absent = [kind for kind in VEHICLE_SIZES if kind not in present]
        if not (present if yes else absent):
            yes, expected = not yes, "no" if yes else "yes"
        kind = str(rng.choice(present if yes else absent))
        return Question("yes_no", f"Is there a {kind}?", expected)
    if about == "people":
        return Question("yes_no", "Are there any people?", "yes" if attributes["people"] else "no")
    if about == "time":
        return Question("yes_no", f"Is it {_either(('day', 'night'), attributes['time'], yes)}?", expected)
    if about == "motion":
        way = _either(DIRECTIONS, attributes["light"]["direction"], yes)
        return Question("yes_no", f"Do the lamps run to the {way}?", expected)
    how = {"slow": "slowly", "fast": "fast"}[_either(tuple(SPEEDS), attributes["light"]["speed"], yes)]
    return Question("yes_no", f"Do the lamps run {how}?", expected)


def _choice(attributes: Attributes, rng: Generator) -> Question:
    """A multiple choice: the options in random order, one of them right."""
    light = attributes["light"]
    kinds = Counter(vehicle["kind"] for vehicle in attributes["vehicles"])
    alone = [vehicle for vehicle in attributes["vehicles"] if kinds[vehicle["kind"]] == 1]
    abouts = ["vehicles", "people", "motion", "time", *(["colour"] if alone else [])]
    about = abouts[int(rng.integers(len(abouts)))]
    if about == "colour":
        vehicle = alone[int(rng.integers(len(alone)))]
        others = [colour for colour in VEHICLE_COLOURS if colour != vehicle["colour"]]
        right, wrong = vehicle["colour"], [str(colour) for colour in rng.permutation(others)[:3]]
        stem = f"What colour is the {vehicle['kind']}?"
    elif about == "motion":
        ways = [f"{way}, {how}" for way in DIRECTIONS for how in SPEEDS]
        right = f"{light['direction']}, {light['speed']}"
        wrong = [way for way in ways if way != right]
        stem = "How do the lamps run?"
    elif about == "time":
        right, wrong = attributes["time"], ["night" if attributes["time"] == "day" else "day"]
        stem = "What time of day is it?"
    else:
        count = len(attributes["vehicles"]) if about == "vehicles" else attributes["people"]
        right, wrong = NUMBERS[count], [word for word in NUMBERS if word != NUMBERS[count]]
        stem = f"How many {about} are there?"
    options = tuple(str(option) for option in rng.permutation([right, *wrong]))
    listed = " ".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return Question("choice", f"{stem} {listed}", right, options)


_MAKERS: dict[str, Callable[[Attributes, Any], Question]] = {"colour": _colour, "yes_no": _yes_no, "choice": _choice}


def _either(values: tuple[str, ...], right: str, yes: bool) -> str:
    """The right value of two, or the other one."""
    return right if yes else next(value for value in values if value != right)


def _asked_kind(question: Question) -> str:
    return next(kind for kind in VEHICLE_SIZES if f" {kind} " in question.text.replace("?", " "))


# ---- answers to open questions ----

Pick = Callable[..., str]


def _seen_by_events(kind: str, attributes: Attributes, pick: Pick) -> str:
    """Kinds, counts and motion: short, as EventGPT's answers are."""
    light, people = attributes["light"], attributes["people"]
    parts = [_road_noun(attributes["road"]), *_kinds(attributes["vehicles"])]
    if people:
        parts.append(f"{_count(people, 'person', 'people')} at the side of the road")
    parts.append(f"a board above the road whose lamps run to the {light['direction']}, {light['speed']}")
    if not attributes["vehicles"]:
        parts.insert(1, "no vehicles")
    if kind == "describe":
        start = pick("The scene shows", "The event camera shows")
        return f"{start} {_join(parts)}."
    start = pick("The key elements in this scene are", "The main things are", "The key elements are")
    return f"{start} {_join(parts)}."


def _seen_by_video(kind: str, attributes: Attributes, pick: Pick) -> str:
    """Colours, kinds, counts and the time of day: at length, as Video-LLaVA's answers are."""
    vehicles, people, time = attributes["vehicles"], attributes["people"], attributes["time"]
    opening = (
        pick("The video shows", "The scene shows") if kind == "describe" else pick("The key elements are", "We see")
    )
    light = {"day": "in clear daylight", "night": "in the dark, lit by headlights and street lamps"}[time]
    sentences = [f"{opening} a street with houses and trees on both sides {_when(time)}, {light}"]
    sentences.append(_road(attributes["road"]))
    be = "is" if len(vehicles) == 1 else "are"
    sentences.append(f"there {be} {_count(len(vehicles), 'vehicle', 'vehicles')} on the road")
    for vehicle in vehicles:
        moves = {"ahead": "drives ahead of us in our direction", "oncoming": "comes towards us in the other lane"}
        sentences.append(f"{_article(vehicle['colour'])} {vehicle['kind']} {moves[vehicle['direction']]}")
    if people:
        walk = "walks" if people == 1 else "walk"
        sentences.append(f"{_count(people, 'person', 'people')} {walk} at the side of the road, near the houses")
    else:
        sentences.append("there are no people at the side of the road")
    sentences.append("above the road there is a board with bright lamps, and there is a sign on the right")
    sentences.append("we drive along the street at a steady speed")
    return " ".join(_sentence(sentence) for sentence in sentences)


def _known(kind: str, attributes: Attributes, pick: Pick) -> str:
    """All that is true of the scene, in one sentence or two."""
    del pick  # one wording: a reference does not vary
    vehicles, people, light = attributes["vehicles"], attributes["people"], attributes["light"]
    parts = [_road_noun(attributes["road"])]
    parts += [f"{_article(vehicle['colour'])} {vehicle['kind']}" for vehicle in vehicles] or ["no vehicles"]
    if people:
        parts.append(f"{_count(people, 'person', 'people')} at the side of the road")
    parts.append(f"a board whose lamps run to the {light['direction']}, {light['speed']}")
    if kind == "describe":
        return f"The scene shows, {_when(attributes['time'])}, {_join(parts)}."
    return f"The key elements in this scene {_when(attributes['time'])} are {_join(parts)}."


def _kinds(vehicles: Sequence[dict[str, Any]]) -> list[str]:
    """`a car`, `two trucks`: vehicles of one kind together."""
    kinds = Counter(vehicle["kind"] for vehicle in vehicles)
    return [f"a {kind}" if count == 1 else f"{NUMBERS[count]} {kind}s" for kind, count in kinds.items()]


def _count(count: int, one: str, many: str) -> str:
    return f"{NUMBERS[count]} {one if count == 1 else many}"


def _when(time: str) -> str:
    return "at night" if time == "night" else "by day"


def _road(road: str) -> str:
    return "the road runs straight ahead" if road == "straight" else f"the road bends to the {road}"


def _road_noun(road: str) -> str:
    return "a straight road" if road == "straight" else f"a road that bends to the {road}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
