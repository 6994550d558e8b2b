"""Is this run believable? Every check, in the order in which a reader would ask.

A check passes, warns, fails, or could not be made, and then says why: what was not checked never passes. A run
with a failed check is kept and shown as invalid. Numbers are looked at in every record; texts in a sample of at most
SAMPLED of them. The checks: of the plan (`plan.py`), of times (`times.py`), of answers (`answers.py`) and of settings
(`settings.py`).

    checks = check_run(evidence)
    valid(checks)                # False if any failed
"""

from __future__ import annotations

from collections.abc import Callable

from fourstage.trust.check import Check
from fourstage.trust.checks.answers import (
    answers_repeat,
    context_held,
    counts_are_the_ids,
    images_are_the_files,
    not_truncated,
    operations_counted,
    staged_equals_own,
    values_finite,
    vision_runs_once,
)
from fourstage.trust.checks.plan import as_planned, plan_is_dataset, precise_enough, something_succeeded
from fourstage.trust.checks.settings import config_used, io_held
from fourstage.trust.checks.times import (
    little_observed,
    machine_quiet,
    no_caching,
    no_drift,
    nothing_impossible,
    outliers_named,
    stages_apart,
    stages_close,
    stages_measured,
    tokens_explain_time,
    warmed_up,
)
from fourstage.trust.evidence import Evidence


def check_run(evidence: Evidence) -> list[Check]:
    """Every check, in the order in which a reader would ask."""
    return [check(evidence) for check in CHECKS]


CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    something_succeeded,
    as_planned,
    plan_is_dataset,
    stages_measured,
    stages_close,
    stages_apart,
    vision_runs_once,
    staged_equals_own,
    answers_repeat,
    images_are_the_files,
    operations_counted,
    counts_are_the_ids,
    tokens_explain_time,
    nothing_impossible,
    not_truncated,
    context_held,
    no_drift,
    no_caching,
    little_observed,
    outliers_named,
    config_used,
    values_finite,
    io_held,
    warmed_up,
    precise_enough,
    machine_quiet,
)
