"""A study's question gets yes or no where the runs tell it, and cannot tell where they do not.

Times are made up with known causes, noise of 1 % and samples that differ among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fourstage.comparison.run_data import RunData
from fourstage.comparison.studies import ARCHITECTURE, ENCODING, FEWER, LOADING, PER_TOKEN, RANKING, STUDIES, find
from fourstage.config.studies import GROUP, list_studies
from fourstage.plugins import conf_folder
from fourstage.records.columns import Columns
from fourstage.stages import SampleRecord
from tests.builders import timed

PROCESSES = 2  # that measured each run, each the same
COSTS = {"load": 0.010, "preprocess": 0.010, "encode": 0.010, "prefill": 0.020, "step": 0.002}


def records(seed: int, n: int = 30, tokens: int = 101, noise: float = 0.01, **costs: float) -> list[SampleRecord]:
    sizes, rng = np.random.default_rng(7).lognormal(0, 0.3, n), np.random.default_rng([seed, 3])
    made = []
    for i, size in enumerate(sizes):
        factors = rng.lognormal(0, noise, 5) * size
        load, preprocess, encode, prefill, step = factors * list((COSTS | costs).values())
        steps = (step,) * (tokens - 1)
        made.append(
            timed(f"clip {i}", load, preprocess, encode, prefill, steps, sample_id=f"{i}", position=i,
                  started_unix_s=float(i))
        )  # fmt: skip
    return made


def run(made: Sequence[SampleRecord], **params: str) -> RunData:
    settings = {key.replace("__", "."): value for key, value in params.items()}
    name = " ".join(settings.values())
    measured = [replace(record, replicate=number) for number in range(PROCESSES) for record in made]
    return RunData(name, name, settings, {}, {}, Columns.of(measured))


def models(eventgpt: Sequence[SampleRecord], videollava: Sequence[SampleRecord], **params: str) -> list[RunData]:
    return [
        run(eventgpt, model__name="eventgpt", model__event_images="5", **params),
        run(videollava, model__name="videollava", model__frames="8", **params),
    ]


def answers(study: str, runs: Sequence[RunData]) -> dict[str, str]:
    return {finding.question.rstrip("?"): finding.answer for finding in find(study, runs)}


def test_every_shipped_study_is_answered() -> None:
    assert set(STUDIES) == set(list_studies([conf_folder() / GROUP]))


def test_loading_that_makes_nearly_all_of_the_gap_dominates_it() -> None:
    found = answers("event_vs_video", models(records(1), records(2, load=0.2), stop="natural"))
    assert (found[LOADING], found[FEWER], found[PER_TOKEN], found[ENCODING]) == ("yes", "no", "no", "yes")


def test_a_run_of_one_process_answers_nothing_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.comparison.test_findings.PROCESSES", 1)
    found = find("event_vs_video", models(records(1), records(2, load=0.2), stop="natural"))
    assert {finding.answer for finding in found} == {"cannot tell"}
    assert found[0].measured.endswith("were measured in one process. Set replicates=3 or more.")


def test_tokens_that_make_the_gap_are_its_cause_whichever_model_writes_more() -> None:
    for one, other in ((50, 150), (150, 50)):
        made = models(records(1, tokens=one), records(2, tokens=other), stop="natural")
        found = answers("event_vs_video", made)
        assert (found[LOADING], found[FEWER]) == ("no", "yes")


def test_a_factor_that_works_against_the_gap_is_no_cause_of_it() -> None:
    made = models(records(1), records(2, load=0.5, step=0.001), stop="natural")
    assert answers("event_vs_video", made)[PER_TOKEN] == "no"


def test_slower_tokens_are_a_cause() -> None:
    assert answers("event_vs_video", models(records(1), records(2, step=0.004), stop="natural"))[PER_TOKEN] == "yes"


def test_encoding_is_not_cheap_where_one_model_spends_more_than_a_tenth_on_it() -> None:
    assert answers("event_vs_video", models(records(1), records(2, encode=0.2), stop="natural"))[ENCODING] == "no"


def test_without_a_difference_nothing_is_its_cause() -> None:
    found = find("event_vs_video", models(records(1, noise=0.1), records(2, noise=0.1), stop="natural"))
    by_question = {finding.question.rstrip("?"): finding for finding in found}
    for question in (LOADING, FEWER, PER_TOKEN):
        assert by_question[question].answer == "cannot tell"
        assert "No difference in total was detected" in by_question[question].measured
    assert by_question[ARCHITECTURE].answer == "cannot tell"
    assert "generation=fixed" in by_question[ARCHITECTURE].measured


def test_what_models_compute_is_told_without_loading() -> None:
    differs = models(records(1), records(2, load=0.9, encode=0.05), stop="fixed")
    same = models(records(1, noise=0.002), records(2, load=0.9, noise=0.002), stop="fixed")
    assert answers("event_vs_video", differs)[ARCHITECTURE] == "yes"
    assert answers("event_vs_video", same)[ARCHITECTURE] == "no"
    uneven = models(records(1), records(2, tokens=90), stop="fixed")
    assert answers("event_vs_video", uneven)[ARCHITECTURE] == "cannot tell"


def test_each_further_setting_is_answered_apart() -> None:
    made = [
        item
        for precision, factor in (("fp32", 0.2), ("bf16", 0.01))
        for item in models(records(1), records(2, load=factor, step=0.003), stop="natural", precision=precision)
    ]
    found = answers("event_vs_video", made)
    assert found[f"{LOADING} (precision=bf16)"] == "no"
    assert f"{LOADING} (precision=fp32)" in found


def test_one_sample_and_invalid_runs_answer_nothing() -> None:
    few = models(records(1, n=1), records(2, n=1, load=0.9), stop="natural")
    assert set(answers("event_vs_video", few).values()) == {"cannot tell"}
    bad = [replace(item, valid=False) for item in models(records(1), records(2, load=0.9), stop="natural")]
    assert set(answers("event_vs_video", bad).values()) == {"cannot tell"}
    assert [finding.answer for finding in find("batch", [])] == ["cannot tell"]
    assert find("a study of my own", few) == ()


def test_a_cache_pays_back_what_filling_it_cost() -> None:
    kept = [replace(r, cached_stages=("load",), cache_fill_s=0.1) for r in records(2, load=0.0001, step=0.0001)]
    made = [
        run(records(1, load=0.05, step=0.0001), model__name="eventgpt", cache="none"),
        run(kept, model__name="eventgpt", cache="frames"),
        run(records(3, load=0.05, step=0.0001), model__name="eventgpt", cache="tensors"),
    ]
    frames, tensors = find("cache", made)
    assert (frames.question, frames.answer) == ("Does keeping decoded frames make a sample quicker?", "yes")
    assert "The cached stages save 45" in frames.measured
    assert "paid back after 3 passes over the data" in frames.measured
    assert tensors.answer in ("no", "cannot tell")
    assert "How long filling took is not on the records" in tensors.measured


def test_a_batch_that_shares_its_time_gives_more_throughput() -> None:
    alone = records(1, n=64)
    # four of a batch start together and share what two took
    batched = [
        replace(r, batch_size=4, started_unix_s=float(i // 4), total_s=(r.total_s or 0) / 2)
        for i, r in enumerate(records(2, n=64))
    ]
    made = [run(batched, model__name="eventgpt", batch_size="4"), run(alone, model__name="eventgpt", batch_size="1")]
    (finding,) = find("batch", made)
    assert (finding.question, finding.answer) == ("Does a batch of 4 give more throughput than 1?", "yes")
    assert "samples/s instead of" in finding.measured
    assert "first token comes after" in finding.measured
    (same,) = find("batch", [run(alone, batch_size="1"), run(records(2, n=64), batch_size="2")])
    assert same.answer in ("no", "cannot tell")


def test_visual_and_output_tokens_have_a_price() -> None:
    def made(frames: int, tokens: int, seed: int) -> RunData:
        few = records(seed, tokens=tokens, encode=0.001 * frames, prefill=0.002 * frames)
        few = [replace(r, visual_tokens=17 * frames, images=frames) for r in few]
        return run(few, model__frames=str(frames), max_new_tokens=str(tokens))

    runs = [made(frames, tokens, 10 * frames + tokens) for frames in (2, 8) for tokens in (16, 128)]
    found = {finding.question: finding for finding in find("tokens", runs)}
    visual = found["Does a visual token cost time (max_new_tokens=128)?"]
    assert visual.answer == "yes"
    assert "from 34 to 136 of them" in visual.measured
    assert found["Does an output token cost time (model.frames=2)?"].answer == "yes"
    assert found["Does a token of the answer cost more than a visual token?"].answer == "yes"


def test_a_setting_that_costs_nothing_costs_nothing() -> None:
    runs = [
        run([replace(r, images=n) for r in records(1)], model__event_images=str(n), max_new_tokens="16") for n in (1, 5)
    ]
    assert answers("tokens_event", runs) == {"Does an event image cost time": "no"}


@pytest.mark.parametrize(
    ("from_mp4", "turns", "changes"), [((0.1, 0.01), "yes", "yes"), ((0.01, 0.1), "no", "cannot tell or no")]
)
def test_the_form_of_the_input_turns_the_ranking_or_not(
    from_mp4: tuple[float, float], turns: str, changes: str
) -> None:
    runs = [
        *models(records(1, load=0.01), records(2, load=0.1), model__source="images"),
        *models(records(3, load=from_mp4[0]), records(4, load=from_mp4[1]), model__source="mp4"),
    ]
    found = answers("fair_input", runs)
    assert found[RANKING] == turns
    assert found["Does the form of the input change the difference between the models"] in changes


def test_one_form_of_input_alone_cannot_turn_a_ranking() -> None:
    (finding,) = find("fair_input", models(records(1), records(2, load=0.1), model__source="images"))
    assert finding.answer == "cannot tell"
    assert "from mp4" in finding.measured
