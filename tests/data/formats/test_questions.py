"""Questions and answers about demo scenes: true, in every style, and of the lengths that they should have."""

from __future__ import annotations

import numpy as np
import pytest

from fourstage.answers.facts import check
from fourstage.data.formats.questions import KEY_ELEMENTS, KINDS, Question, answer, ask
from fourstage.data.formats.scenes import draw_scene
from fourstage.models.demo_tokenizer import demo_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true_in_every_style(kind: str) -> None:
    for index in range(60):
        known, rng = draw_scene(7, index).attributes, np.random.default_rng(index)
        question = ask(kind, known, rng)
        for style in ("event", "video", "reference"):
            said = answer(question, known, style, rng)
            if question.options:
                assert said.startswith(question.letter)
                assert question.options.count(question.expected) == 1
            else:
                found = check(question.text, said, known)
                assert found
                assert all(found.values()), (question.text, said, found)


def test_each_modality_names_what_it_shows() -> None:
    for index in range(40):
        known, rng = draw_scene(7, index).attributes, np.random.default_rng(index)
        events, video = (answer(Question("key_elements", ""), known, style, rng) for style in ("event", "video"))
        assert "night" not in events
        assert not any(vehicle["colour"] in events for vehicle in known["vehicles"])
        assert f"lamps run to the {known['light']['direction']}, {known['light']['speed']}" in events
        assert "lamps run" not in video
        assert all(f"{vehicle['colour']} {vehicle['kind']}" in video for vehicle in known["vehicles"])


def test_an_answer_from_video_is_more_than_twice_as_long() -> None:
    tokenizer = demo_tokenizer()
    lengths = {
        style: [
            len(tokenizer(answer(Question("key_elements", KEY_ELEMENTS), draw_scene(1, index).attributes, style,
                                 np.random.default_rng(index))).input_ids)
            for index in range(60)
        ]
        for style in ("event", "video")
    }  # fmt: skip
    assert 30 < np.mean(lengths["event"]) < 45
    assert 85 < np.mean(lengths["video"]) < 105
    assert max(lengths["video"]) < 128


def test_as_many_questions_are_affirmed_as_denied() -> None:
    asked = [ask("yes_no", draw_scene(3, index).attributes, np.random.default_rng(index)) for index in range(300)]
    assert 0.4 < np.mean([question.expected == "yes" for question in asked]) < 0.65


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of question 'why'; choose one of key_elements"):
        ask("why", draw_scene(0, 0).attributes, np.random.default_rng(0))
