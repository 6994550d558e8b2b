"""From a composed configuration to a pipeline that is ready to measure.

pipeline = load_pipeline(config)
"""

from __future__ import annotations

import sys

import torch
from transformers.utils import logging

from fourstage import plugins
from fourstage.config.schema import Config
from fourstage.engines import Engine
from fourstage.lazy import resolve
from fourstage.models.base import StagedPipeline
from fourstage.models.device import check_precision, choose_device
from fourstage.models.quantised import check_quantisation, quantise
from fourstage.stages import UserError


def import_libraries(config: Config) -> None:
    """Import what the configuration's model, dataset format and engine use, so that no measurement contains it."""
    chosen = (("model", config.model.name), ("dataset", config.dataset.name), ("engine", config.engine.name))
    for kind, name in chosen:
        resolve(plugins.find(kind, name))
    for name, module in list(sys.modules.items()):
        shared = name.startswith("fourstage.models.") and name.rpartition(".")[2] not in plugins.names("model")
        if shared and module is not None:
            resolve(module)


def preflight(config: Config) -> None:
    """Raise UserError for what cannot work, before a run is tracked and a model is loaded."""
    device = choose_device(config.device)
    check_precision(config.arithmetic, device)
    check_quantisation(config.precision, device)
    plugins.find("model", config.model.name).Model.preflight(config)


def load_pipeline(config: Config) -> StagedPipeline:
    """Build or read the model that `config` names. Raises UserError with one line where that cannot be."""
    logging.set_verbosity_error()  # what matters is said in our own errors
    logging.disable_progress_bar()
    # cuDNN's attention makes a plan for each new length, and every decode step is one: 40 ms a step on an H100
    torch.backends.cuda.enable_cudnn_sdp(False)
    device = choose_device(config.device)
    check_precision(config.arithmetic, device)
    pipeline: StagedPipeline = plugins.find("model", config.model.name).Model.from_weights(
        config.model,
        config.weights,
        device=device,
        precision=config.arithmetic,
        attention=config.engine.attention,
        prompt=config.prompt,
    )
    quantise(pipeline.generator, config.precision)
    pipeline.facts = pipeline.facts.quantised(pipeline.model, config.precision)
    engine = plugins.find("engine", config.engine.name).Engine(config.engine)
    if not isinstance(engine, Engine):
        raise UserError(
            f"engine={config.engine.name}: its Engine does not derive from fourstage.engines.Engine; "
            "docs/extending.md says how to write one"
        )
    engine.check(pipeline.generator)
    pipeline.engine = engine
    return pipeline
