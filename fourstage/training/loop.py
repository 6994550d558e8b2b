"""The training loop: one stand-in learns to answer questions about demo scenes. Plain torch.

Left out: where the scenes come from (`pool.py`), and where figures are logged (`fourstage/train.py`).

    trainer = Trainer(make("eventgpt", Size(), seed=0), Plan(steps=6000), device="cuda")
    for report in trainer.train(pool, validation): print(report)
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fourstage.answers.facts import check
from fourstage.answers.options import chosen
from fourstage.data.formats.questions import KINDS, Question, ask
from fourstage.training.batches import HEADS, Batch, Pool, Recipe, draw_batch, normalised
from fourstage.training.networks import StandIn

LONGEST_ANSWER = 128  # tokens that an answer may have in an evaluation


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stand-in learns."""

    steps: int = 6000
    warmup: int = 200  # steps
    rate: float = 1e-3  # learning rate at its highest; then it falls as a cosine
    decay: float = 0.05  # weight decay
    heads: float = 0.5  # weight of the auxiliary heads' loss
    epoch: int = 500  # steps between two evaluations and checkpoints
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What an epoch left."""

    step: int
    seconds: float  # since training began
    loss: float
    heads: Mapping[str, float]  # accuracy of each auxiliary head on the last batches
    quality: Mapping[str, float]  # accuracy of each fact in answers on validation scenes
    scenes: int  # in the pool


class Trainer:
    """A stand-in, its optimiser and its place in the plan."""

    def __init__(self, stand_in: StandIn, plan: Plan, device: str) -> None:
        self.stand_in, self.plan, self.device = stand_in, plan, device
        stand_in.network.to(device).train()
        torch.manual_seed(plan.seed + 1)
        hidden = stand_in.embedding.weight.shape[1]
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, values) for name, values in HEADS.items()}).to(device)
        parameters = [*stand_in.network.parameters(), *self.heads.parameters()]
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": plan.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=device != "cpu")
        self.step = 0

    def train(
        self, pool: Pool, validation: Pool, refill: Callable[[], None] = lambda: None, stop: float = math.inf
    ) -> Iterator[Report]:
        """Learn until the plan's last step, or until `stop` (monotonic seconds); a report each epoch.

        The learning rate follows the steps, or the time where that ends first. `refill` is called now and then, so
        that scenes that are still being drawn can be added to the pool.
        """
        began = time.monotonic()
        losses: list[float] = []
        right: dict[str, list[float]] = defaultdict(list)
        while self.step < self.plan.steps and time.monotonic() < stop:
            if self.step % 25 == 0:
                refill()
            share = self.step / self.plan.steps
            if stop < math.inf:
                share = max(share, (time.monotonic() - began) / (stop - began))
            rng = np.random.default_rng([self.plan.seed, self.step])
            loss, scores = self._learn(draw_batch(pool, self.stand_in, self.plan.recipe, rng), share)
            self.step += 1
            if self.step % 10 == 0 or not losses:  # reading them waits for the device
                losses.append(float(loss))
                for name, score in scores.items():
                    right[name].append(float(score))
            if self.step % self.plan.epoch == 0 or self.step == self.plan.steps:
                heads = {name: float(np.mean(values[-20:])) for name, values in right.items()}
                quality = self.evaluate(validation)
                yield Report(
                    self.step, time.monotonic() - began, float(np.mean(losses[-20:])), heads, quality, len(pool)
                )

    def _learn(self, batch: Batch, share: float) -> tuple[Tensor, dict[str, Tensor]]:
        rate = self.plan.rate * min(1.0, (self.step + 1) / self.plan.warmup) * (0.5 + 0.5 * math.cos(math.pi * share))
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, self.plan.rate / 100)
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.device != "cpu"):
            rows = self.stand_in.visual(batch.pixels)
            summary = self.stand_in.summary(rows, batch.pixels.shape[1])
            head_losses, scores = self._read_heads(summary, batch.targets)
            logits = self._logits(rows[batch.owner], batch.before, batch.seen[:, :-1])
        weight = batch.weight[:, 1:]
        each = nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.after[:, 1:].flatten(), reduction="none")
        loss = (each * weight.flatten()).sum() / weight.sum()
        self.optimiser.zero_grad(set_to_none=True)
        (loss + self.plan.heads * head_losses).backward()
        nn.utils.clip_grad_norm_([p for group in self.optimiser.param_groups for p in group["params"]], 1.0)
        self.optimiser.step()
        return loss.detach(), scores

    def _logits(self, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """[texts, ids of `after`, vocabulary]: what the model expects to follow each id after the visual tokens."""
        embed = self.stand_in.embedding
        start = embed(before)[None].expand(len(rows), -1, -1)
        parts = torch.cat([start, rows, embed(after)], dim=1)
        out = self.stand_in.language(inputs_embeds=parts, use_cache=False, logits_to_keep=after.shape[1])
        logits: Tensor = out.logits
        return logits

    def _read_heads(self, summary: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, scores = torch.zeros((), device=summary.device), {}
        for name, head in self.heads.items():
            found = head(summary).float()
            loss = loss + nn.functional.cross_entropy(found, targets[name])
            scores[name] = (found.argmax(-1) == targets[name]).float().mean()
        return loss / len(self.heads), scores

    def evaluate(self, pool: Pool, seed: int = 0) -> dict[str, float]:
        """Accuracy of each fact, and of multiple choices, in greedy answers about each scene of a pool.

        Under the facts' names, and `<kind>.<fact>` for the facts in the answers to open questions.
        """
        self.stand_in.network.eval()
        right: dict[str, list[float]] = defaultdict(list)
        for images, _, attributes in pool.chunks:
            with torch.inference_mode():
                rows = self.stand_in.visual(normalised(images))
            for kind in KINDS:
                rng = np.random.default_rng([seed, KINDS.index(kind)])
                questions = [ask(kind, known, rng) for known in attributes]
                answers, ended = self.answers(rows, questions)
                right["natural_end"] += [float(end) for end in ended]
                for question, said, known in zip(questions, answers, attributes, strict=True):
                    if question.options:
                        right["choice"].append(float(chosen(said, question.options) == question.letter))
                    prefix = f"{kind}." if kind in ("key_elements", "describe", "yes_no") else ""
                    for fact, true in check(question.text, said, known).items():
                        right[prefix + fact].append(float(true))
        self.stand_in.network.train()
        return {name: float(np.mean(values)) for name, values in sorted(right.items())}

    def answers(self, rows: Tensor, questions: list[Question]) -> tuple[list[str], list[bool]]:
        """Greedy answers to one question a scene, from visual tokens [scenes, rows, D]; and whether each ended."""
        embed, tokenizer = self.stand_in.embedding, self.stand_in.tokenizer
        with torch.inference_mode():
            parts = []
            for row, question in zip(rows, questions, strict=True):
                before, after = (
                    embed(torch.tensor(ids, device=self.device)) for ids in self.stand_in.around(question.text)
                )
                parts.append(torch.cat([before, row.to(before.dtype), after]))
            longest = max(map(len, parts))
            mask = torch.zeros(len(parts), longest, dtype=torch.long, device=self.device)
            batch = torch.zeros(len(parts), longest, parts[0].shape[-1], device=self.device)
            for i, part in enumerate(parts):
                batch[i, longest - len(part) :], mask[i, longest - len(part) :] = part, 1
            ids = self.stand_in.language.generate(
                inputs_embeds=batch, attention_mask=mask, max_new_tokens=LONGEST_ANSWER, do_sample=False,
                eos_token_id=2, pad_token_id=0,
            ).tolist()  # fmt: skip
        texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
        return texts, [2 in row for row in ids]

    def save(self, path: Path) -> None:
        """Everything that training needs to go on, and nothing that could run code."""
        state: dict[str, Any] = {
            "network": self.stand_in.network.state_dict(),
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        temporary.rename(path)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.stand_in.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = int(state["step"])
