"""Train a stand-in of weights=demo on demo scenes, and write its checkpoint in the published layout.

python -m fourstage.train model=eventgpt                       # about 7 minutes on a GPU, hours on a CPU
python -m fourstage.train model=videollava steps=2000 out=build/mine
python -m fourstage.train model=eventgpt                       # again: goes on from its last checkpoint

then: fourstage run model=eventgpt weights=pretrained weights.path=build/stand_ins/eventgpt

Settings are those of conf/train.yaml, checked and composed by Hydra. Loss, the auxiliary heads' accuracy and the
quality of greedy answers on validation scenes are logged to MLflow each epoch. Exit codes: 0 trained; 1 failed; 2 the
command cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from fourstage.cli.command import run_command
from fourstage.exit_codes import INTERRUPTED
from fourstage.text import say

if TYPE_CHECKING:
    from fourstage.config.training import TrainingSettings
    from fourstage.training.loop import Trainer

CHUNK = 24  # scenes that are drawn and stored together


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""

    def command(words: Sequence[str]) -> int:
        from fourstage.config.flat import flatten
        from fourstage.config.training import compose_training

        settings, tree = compose_training(words)
        try:
            _train(settings, {key: str(value) for key, value in flatten(tree).items()})
        except KeyboardInterrupt:
            say("error: interrupted; the same command goes on from its last checkpoint")
            return INTERRUPTED
        return 0

    return run_command(__doc__, argv, command)


def _train(settings: TrainingSettings, params: dict[str, str]) -> None:
    from fourstage.models.device import choose_device
    from fourstage.tracking.destination import Destination
    from fourstage.tracking.training import training_run
    from fourstage.training.batches import Pool, Recipe
    from fourstage.training.loop import Plan, Trainer
    from fourstage.training.networks import Size, make, save
    from fourstage.training.pool import read_chunk

    out = Path(settings.out)
    state, scenes = out / "training" / f"{settings.model.name}.pt", out / "training" / f"scenes-{settings.seed}"
    scenes.mkdir(parents=True, exist_ok=True)
    device = choose_device(settings.device)
    stand_in = make(settings.model.name, Size(), settings.seed)
    recipe = Recipe(scenes=settings.batch, questions=settings.questions)
    plan = Plan(
        steps=settings.steps, epoch=settings.epoch, rate=settings.rate, recipe=recipe, seed=settings.seed
    )  # fmt: skip
    trainer = Trainer(stand_in, plan, device)
    if settings.resume and state.is_file():
        trainer.resume(state)
        say(f"goes on from step {trainer.step}")
    pool, validation = Pool(device, stand_in.style), Pool(device, stand_in.style)
    for split, count, into in (("validation", settings.validation, validation), ("train", settings.scenes, pool)):
        for path in _drawn(scenes, split, count, settings):
            into.add(read_chunk(path))
    with training_run(Destination.of(settings.tracking), f"train-{settings.model.name}", params) as log:
        for report in trainer.train(pool, validation):
            heads = {f"heads.{name}": value for name, value in report.heads.items()}
            quality = {f"quality.{name}": value for name, value in report.quality.items()}
            log({"loss": report.loss, "seconds": report.seconds, **heads, **quality}, report.step)
            trainer.save(state)
            done = f"step {report.step}/{plan.steps}  {report.seconds:.0f} s  loss {report.loss:.3f}"
            say(f"{done}  {_shown(trainer, quality)}")
    save(stand_in, out / settings.model.name)
    say(f"written: {out / settings.model.name}")


def _drawn(folder: Path, split: str, count: int, settings: TrainingSettings) -> list[Path]:
    """The files of so many scenes, drawn by several processes where they are not there."""
    from fourstage.training.pool import Chunk, write_chunk

    chunks = [
        Chunk(split, settings.seed, start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)
    ]  # fmt: skip
    if missing := [chunk for chunk in chunks if not (folder / chunk.name).is_file()]:
        say(f"draws {sum(chunk.count for chunk in missing)} {split} scenes")
        with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as workers:
            list(workers.map(write_chunk, [folder] * len(missing), missing))
    return [folder / chunk.name for chunk in chunks]


def _shown(trainer: Trainer, quality: dict[str, float]) -> str:
    """The facts that the stand-in's modality shows, in percent."""
    facts = ("motion", "speed") if trainer.stand_in.style == "event" else ("colour", "time")
    found = [(fact, quality.get(f"quality.{fact}")) for fact in (*facts, "vehicles", "people")]
    return "  ".join(f"{fact} {100 * value:.0f} %" for fact, value in found if value is not None)
