"""A small tokenizer of our own, for the stand-ins and for random values (`weights=demo`, `weights=random`).

LLaMA's kind: byte-pair merges over words that begin with `▁`, bytes as the fallback, so that any text goes in
and comes back. It was trained once on questions and answers about demo scenes and is shipped as `demo_tokenizer.json`;
it is not the published tokenizer, so token counts of a prompt differ from the published model's.

    tokenizer = demo_tokenizer(extra_tokens=("<video>",))
    tokenizer("Is it day?").input_ids        # starts with the id of <s>
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = Path(__file__).with_name("demo_tokenizer.json")
SCENES = 300  # whose questions and answers it is trained on
UNK, BOS, EOS = "<unk>", "<s>", "</s>"  # ids 0, 1, 2, as in LLaMA


def demo_tokenizer(extra_tokens: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """The shipped tokenizer, with `extra_tokens` as single ids after the others. `<s>` is put before a text."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(FILE), unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=UNK
    )
    if extra_tokens:
        tokenizer.add_tokens(list(extra_tokens), special_tokens=True)
    return tokenizer


def train(path: Path = FILE) -> None:
    """Make the shipped file again: `python -m fourstage.models.demo_tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=1000 - len(byte_tokens), special_tokens=[UNK, BOS, EOS], show_progress=False, max_token_length=16
    )
    pieces = (re.findall(r"[▁\w]+|[^▁\w]", f"▁{word}") for text in _sentences() for word in text.split(" "))
    words.train_from_iterator([piece for word in pieces for piece in word], trainer)  # punctuation stands by itself
    vocab = words.get_vocab()
    learnt = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])][3:]
    order = [UNK, BOS, EOS, *byte_tokens, *learnt]
    merges = [tuple(merge) for merge in json.loads(words.to_str())["model"]["merges"]]
    tokenizer.model = models.BPE(
        {token: i for i, token in enumerate(order)}, merges, unk_token=UNK, byte_fallback=True, fuse_unk=True
    )
    tokenizer.add_special_tokens([UNK, BOS, EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 1)]
    )
    tokenizer.save(str(path))


def _sentences() -> Iterator[str]:
    """The fixed parts of the two prompts, and driving scenes in words."""
    import numpy as np

    from fourstage.data.formats import questions, scenes

    yield "A chat between a curious human and an artificial intelligence assistant."
    yield "The assistant gives helpful, detailed, and polite answers to the human's questions. USER: ASSISTANT:"
    yield "What are the key elements in this scene? Describe in detail what happened in the scene."
    yield "Is it day or night? How many vehicles are there? What is the person holding in their hands?"
    yield "<ev_start> <ev_end> abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;!?'\"()-_<>/"
    yield "bus bicycle motorcycle black silver grey parked crossing standing pedestrians evening sunlight nobody"
    for index in range(SCENES):
        scene, rng = scenes.draw_scene(0, index, "train"), np.random.default_rng(index)
        for kind in questions.KINDS:
            question = questions.ask(kind, scene.attributes, rng)
            yield question.text
            for style in ("event", "video", "reference"):
                yield questions.answer(question, scene.attributes, style, rng)


if __name__ == "__main__":
    train()
