"""The tags that identify a run in the store."""

from __future__ import annotations

import platform

from fourstage.config.schema import Config
from fourstage.runs.identity import Identity
from fourstage.runs.job import Membership
from fourstage.tracking.views import EVALUATION
from fourstage.version import __version__


def run_tags(config: Config, identity: Identity, membership: Membership | None) -> dict[str, str]:
    """What identifies a run: version, host, machine, hashes, commit and sweep."""
    from fourstage.runs.environment import git_state

    git = git_state()
    tags = EVALUATION | {
        "fourstage.version": __version__,
        "fourstage.host": platform.node(),
        **machine_tag(config),
        **identity.tags(),
    }
    if git["commit"]:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["fourstage.git_dirty"] = str(git["dirty"]).lower()
    return tags | (sweep_tags(membership) if membership else {})


def sweep_tags(membership: Membership) -> dict[str, str]:
    """What nests a run under its sweep's parent."""
    return {
        "mlflow.parentRunId": membership.parent,
        "fourstage.sweep": membership.sweep,
        "fourstage.session": membership.session,
        "fourstage.job": str(membership.job),
    }


def machine_tag(config: Config) -> dict[str, str]:
    """Host and device: a run must not span two machines."""
    import torch

    from fourstage.models.device import choose_device

    device = choose_device(config.device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"fourstage.machine": f"{platform.node()} {name}"}
