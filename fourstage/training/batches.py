"""Batches for training: scenes on the device, questions about them, and the answers to learn.

batch = draw_batch(pool, stand_in, Recipe(), rng)
batch.pixels                             # [scenes, images, 3, SIDE, SIDE], as CLIP's preprocessing normalises them
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourstage.data.formats.questions import KINDS, Attributes, Question, answer, ask
from fourstage.data.formats.scenes import DIRECTIONS, SPEEDS, VEHICLE_COLOURS, VEHICLE_SIZES, held_out
from fourstage.training.networks import StandIn
from fourstage.training.pool import Scenes

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
MIRRORED = {"left": "right", "right": "left", "straight": "straight"}
FACT_WORDS = (
    *VEHICLE_COLOURS, *VEHICLE_SIZES, *(f"{kind}s" for kind in VEHICLE_SIZES), *DIRECTIONS, "slow", "slowly", "fast",
    "straight", "no", "one", "two", "three", "day", "night", "Yes", "No", "A", "B", "C", "D", "none", "a", "an",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a batch is made of."""

    scenes: int = 64
    questions: int = 3  # about each scene, the first of them an open one
    mirrored: float = 0.3  # share of scenes that are mirrored
    other_images: float = 0.3  # share of batches with another number of images than the model takes by default
    fact_weight: float = 4.0  # of a token that states a fact, against 1 of the others
    noise: float = 0.2  # share of colours and kinds that are replaced where the model reads its own answer


@dataclass
class Pool:
    """Scenes on the training device, in chunks."""

    device: str
    style: str  # "event" or "video": which pictures are kept
    chunks: list[tuple[Tensor, Tensor | None, list[dict[str, Any]]]] = field(default_factory=list)

    def add(self, scenes: Scenes) -> None:
        """Put a chunk on the device."""
        if self.style == "video":
            self.chunks.append((torch.from_numpy(scenes.video).to(self.device), None, scenes.attributes))
        else:
            images, other = torch.from_numpy(scenes.events), torch.from_numpy(scenes.other_events)
            self.chunks.append((images.to(self.device), other.to(self.device), scenes.attributes))

    def __len__(self) -> int:
        return sum(len(attributes) for _, _, attributes in self.chunks)


@dataclass(frozen=True)
class Batch:
    """Scenes, and the texts about them."""

    pixels: Tensor  # [scenes, images, 3, SIDE, SIDE]
    owner: Tensor  # [texts] the scene that each text is about
    before: Tensor  # [ids] of the prompt before the visual tokens, the same in all
    seen: Tensor  # [texts, longest] `after` as the model sees it, with some colours and kinds replaced
    after: Tensor  # [texts, longest] ids of the rest of the prompt and the answer, padded with 0
    weight: Tensor  # [texts, longest] of each token as a target; 0 where none is to be learnt
    targets: dict[str, Tensor]  # of the auxiliary heads: [scenes] each


# the auxiliary heads: what each reads, and how many values it has
HEADS = {
    "people": 4, "road": 3, "motion": 2, "speed": 2, "time": 2,
    **{f"lane{lane}_kind": 4 for lane in range(3)}, **{f"lane{lane}_colour": 7 for lane in range(3)},
}  # fmt: skip


def draw_batch(pool: Pool, stand_in: StandIn, recipe: Recipe, rng: np.random.Generator) -> Batch:
    """A random batch. Its scenes come from a few chunks, so that their pictures have one shape."""
    other = rng.random() < recipe.other_images
    fixed = pool.style == "event" and other
    picks = rng.integers(len(pool.chunks), size=1 if fixed else 8)
    pixels: list[Tensor] = []
    attributes: list[Attributes] = []
    for pick in picks:
        images, others, known = pool.chunks[int(pick)]
        size = recipe.scenes // len(picks)
        chosen = rng.integers(len(known), size=size)
        part = others if fixed else images
        assert part is not None
        pixels.append(part[torch.from_numpy(chosen).to(part.device)])
        attributes += [known[int(index)] for index in chosen]
    images = torch.cat(pixels)
    if pool.style == "video" and other:
        frames = ((0,), (0, 7), (0, 2, 5, 7), (0, 1, 3, 4, 6, 7), tuple(range(8)) * 2)[int(rng.integers(5))]
        images = images[:, sorted(frames)]
    mirrored = [mirror(known) if rng.random() < recipe.mirrored else None for known in attributes]
    turned = [scene for scene, known in enumerate(mirrored) if known and not any(held_out(known))]
    for scene in turned:
        attributes[scene] = mirrored[scene] or {}
    images[turned] = images[turned].flip(3)
    owner, texts = [], []
    for scene, facts in enumerate(attributes):
        for number in range(recipe.questions):
            kinds = ("key_elements", "describe") if number == 0 else KINDS
            question = ask(kinds[int(rng.integers(len(kinds)))], facts, rng)
            texts.append((question, answer(question, facts, stand_in.style, rng)))
            owner.append(scene)
    before, after, weight = encode_texts(stand_in, texts, recipe.fact_weight)
    seen = noisy(after, weight, stand_in, recipe.noise, rng)
    device = pool.device
    return Batch(
        normalised(images), torch.tensor(owner, device=device), before.to(device), seen.to(device),
        after.to(device), weight.to(device),
        {name: torch.tensor(values, device=device) for name, values in head_targets(attributes).items()},
    )  # fmt: skip


def encode_texts(stand_in: StandIn, texts: list[tuple[Question, str]], weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Ids before the visual tokens, ids after them, and the weight of each of those as a target."""
    tokenizer, known = stand_in.tokenizer, stand_in.encoded
    facts = {tokenizer.convert_tokens_to_ids(f"▁{word}") for word in FACT_WORDS}
    rows = []
    before: list[int] = []
    for question, said in texts:
        if question.text not in known:
            known[question.text] = stand_in.around(question.text)
        if said not in known:
            known[said] = ([], [*tokenizer(said).input_ids[1:], 2])
        before, prompt = known[question.text]
        rows.append((prompt, known[said][1]))
    longest = max(len(prompt) + len(said) for prompt, said in rows)
    ids, weights = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest)
    for row, (prompt, learnt) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(learnt)
        ids[row, :start], ids[row, start:end] = torch.tensor(prompt), torch.tensor(learnt)
        weights[row, start:end] = torch.tensor([weight if token in facts else 1.0 for token in learnt])
    return torch.tensor(before), ids, weights


def noisy(ids: Tensor, weight: Tensor, stand_in: StandIn, share: float, rng: np.random.Generator) -> Tensor:
    """`ids` with that share of the answers' colours and kinds replaced by others of their sort.

    So the next word is read off the scene, not off the word before: a green car can be named though none was met.
    """
    found = ids.clone()
    for words in (tuple(VEHICLE_COLOURS), tuple(VEHICLE_SIZES)):
        tokens = torch.tensor([stand_in.tokenizer.convert_tokens_to_ids(f"▁{word}") for word in words])
        spots = torch.isin(ids, tokens) & (weight > 0) & torch.from_numpy(rng.random(ids.shape) < share)
        found[spots] = tokens[torch.from_numpy(rng.integers(len(words), size=int(spots.sum())))]
    return found


def normalised(images: Tensor) -> Tensor:
    """[…, SIDE, SIDE, 3] uint8 → […, 3, SIDE, SIDE] as CLIP's preprocessing has it."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).movedim(-1, -3)


def mirror(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes of the scene in a mirror."""
    mirrored = copy.deepcopy(attributes)
    mirrored["road"] = MIRRORED[attributes["road"]]
    mirrored["light"]["direction"] = MIRRORED[attributes["light"]["direction"]]
    return mirrored


def head_targets(attributes: list[dict[str, Any]]) -> dict[str, list[int]]:
    """What the auxiliary heads are to read, by their names."""
    targets: dict[str, list[int]] = {name: [] for name in HEADS}
    for known in attributes:
        targets["people"].append(known["people"])
        targets["road"].append(("left", "straight", "right").index(known["road"]))
        targets["motion"].append(DIRECTIONS.index(known["light"]["direction"]))
        targets["speed"].append(list(SPEEDS).index(known["light"]["speed"]))
        targets["time"].append(("day", "night").index(known["time"]))
        for place in range(3):  # in the order of the vehicles, which is that of their lanes
            vehicle = known["vehicles"][place] if place < len(known["vehicles"]) else None
            targets[f"lane{place}_kind"].append(1 + list(VEHICLE_SIZES).index(vehicle["kind"]) if vehicle else 0)
            colour = 1 + list(VEHICLE_COLOURS).index(vehicle["colour"]) if vehicle else 0
            targets[f"lane{place}_colour"].append(colour)
    return targets
