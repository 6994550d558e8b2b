"""The shipped tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourstage.models import demo_tokenizer as module


@pytest.mark.parametrize("text", ["Is it day?", "żółw 日本\tx\n", "USER: <ev_start> ASSISTANT:", ""])
def test_any_text_goes_in_and_comes_back(text: str) -> None:
    tokenizer = module.demo_tokenizer()
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_extra_tokens_are_single_ids() -> None:
    tokenizer = module.demo_tokenizer(("<video>",))
    assert tokenizer("<video><video>").input_ids.count(tokenizer.convert_tokens_to_ids("<video>")) == 2


def test_the_shipped_file_is_what_training_makes(tmp_path: Path) -> None:
    module.train(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == module.FILE.read_text()
