"""From a composed configuration to a pipeline that is ready to measure.

pipeline = load_pipeline(config)
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.utils import logging

from fourstage.config.schema import Config, EventGPTSettings, PretrainedWeights
from fourstage.models.base import StagedPipeline
from fourstage.models.checkpoints import check_hub_id, check_precision, choose_device
from fourstage.models.reading import local_folder
from fourstage.stages import UserError


def preflight(config: Config) -> None:
    """Raise UserError for what cannot work, before a run is tracked and a model is loaded."""
    check_precision(config.precision, choose_device(config.device))
    weights = config.weights
    if isinstance(config.model, EventGPTSettings):
        from fourstage.models.eventgpt import PLACEHOLDER, checkpoint_folder

        if isinstance(weights, PretrainedWeights):
            checkpoint_folder(weights)
    else:
        from fourstage.models.videollava import PLACEHOLDER

        if (
            isinstance(weights, PretrainedWeights)
            and weights.path
            and not local_folder(weights.path, "weights.path").is_dir()
        ):
            check_hub_id(weights.path)
    if config.prompt is not None and PLACEHOLDER in config.prompt:
        raise UserError(f"the prompt holds {PLACEHOLDER}, which marks the media's place: leave it out")


def load_pipeline(config: Config) -> StagedPipeline:
    """Build or read the model that `config` names. Raises UserError with one line where that cannot be."""
    logging.set_verbosity_error()  # what matters is said in our own errors
    logging.disable_progress_bar()
    # cuDNN's attention makes a plan for each new length, and every decode step is one: 40 ms a step on an H100
    torch.backends.cuda.enable_cudnn_sdp(False)
    device = choose_device(config.device)
    check_precision(config.precision, device)
    options: dict[str, Any] = {
        "device": device,
        "precision": config.precision,
        "attention": config.engine.attention,
        "prompt": config.prompt,
    }
    if isinstance(config.model, EventGPTSettings):
        from fourstage.models.eventgpt import load_eventgpt

        return load_eventgpt(config.model, config.weights, **options)
    from fourstage.models.videollava import load_videollava

    return load_videollava(config.model, config.weights, **options)
