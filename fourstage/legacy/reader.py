"""Result files as runs: JSON text → one LegacyRun for each model in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from fourstage.config.values import SettingError
from fourstage.legacy.keys import (
    CLAIMED_SAMPLES,
    COUNT,
    IDS,
    KEYS,
    QUESTION,
    REFERENCE,
    TEXT,
    TOTAL,
    Unit,
    first_text,
    identity_of,
    key_of,
    stages_in,
)
from fourstage.legacy.layouts import (
    Layout,
    NoResultsError,
    ResultFile,
    Source,
    failed_entries,
    parse_file,
    recognise,
    stage_numbers,
)
from fourstage.legacy.samples import STAGE_MAPS, FileFacts, UnusableValueError, fill_record
from fourstage.legacy.settings import params_of
from fourstage.legacy.units import choose_unit
from fourstage.stages import SampleRecord, UserError


@dataclass(frozen=True)
class LegacyRun:
    """One model of a result file."""

    model: str
    layout: Layout
    records: tuple[SampleRecord, ...]
    facts: tuple[FileFacts, ...]  # one for each record
    params: Mapping[str, str]  # what the file says of its configuration, under our names where they mean the same
    stage_of: Mapping[int, str]  # the file's stage → ours; empty where no sample has a stage
    unit: Unit  # of the file's times; those with a unit in their key have that one
    unit_evidence: str
    claimed_samples: int | None = None  # how many samples the file claims
    notes: tuple[str, ...] = ()


def read_legacy(text: str, unit: str = "") -> tuple[LegacyRun, ...]:
    """The runs of a result file; `unit` is that of its times, where the file leaves it in doubt.

    Raises UserError where the text is no such file or does not show its unit, and NoResultsError where it has none.
    """
    if unit not in ("", *get_args(Unit)):
        raise SettingError(f"unit={unit}: expected unit=s or unit=ms")
    document = parse_file(text)
    file = recognise(document)
    entries = [entry for source in file.sources for entry in source.entries]
    if not any(stages_in(entry.own) for entry in entries):
        raise NoResultsError(
            f"no results: the file has the layout {file.layout!r}, {len(entries)} entries, {len(file.errors)} errors "
            "and not one measured sample"
        )
    names = Counter(source.name for source in file.sources)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"two models of the file are both {twice[0]}: rename one")
    stages = {source.name: stage_numbers(source) for source in file.sources}
    for name, numbers in stages.items():
        if numbers and (len(numbers) not in STAGE_MAPS or numbers != list(range(1, len(numbers) + 1))):
            found = ", ".join(map(str, numbers))
            raise UserError(f"{name} has the stages {found}; known are files with stages 1 to 3, 1 to 4 or 1 to 5")
    chosen, evidence = choose_unit(file, unit)
    usable = _usable_keys(file.sources)
    runs = [_read(file, source, stages[source.name], chosen, evidence, usable) for source in file.sources]
    return tuple(_with_missing(run, runs) for run in runs)


# records


def _usable_keys(sources: Sequence[Source]) -> tuple[str, ...]:
    """The keys by which samples pair: those that every model with samples has somewhere."""
    present = [
        {key for entry in source.entries for key in KEYS if identity_of(entry.shared, key)}
        for source in sources
        if source.entries
    ]
    return tuple(key for key in KEYS if all(key in found for found in present))


def _key(shared: Mapping[str, Any], usable: Sequence[str], position: int) -> str:
    return next((found for key in usable if (found := identity_of(shared, key))), f"#{position}")


def _read(
    file: ResultFile, source: Source, stages: Sequence[int], unit: Unit, evidence: str, usable: Sequence[str]
) -> LegacyRun:
    params = params_of(file, source)
    limit = int(text) if (text := params.get("max_new_tokens", "")).isdecimal() else None
    groups = (TOTAL, TEXT, COUNT, IDS)
    present = [[key_of(entry.own, names) is not None for names in groups] for entry in source.entries]
    # what one sample of a model has, every one must have: else figures would be over different samples
    required = [names for i, names in enumerate(groups) if any(row[i] for row in present)]
    repeats: Counter[str] = Counter()
    records, all_facts = [], []
    for position, entry in enumerate([*source.entries, *failed_entries(file, source)]):
        key = _key(entry.shared, usable, position)
        record = SampleRecord(
            key=key,
            sample_id=identity_of(entry.shared, "id") or key,
            position=position,
            repeat=repeats[key],
            question=first_text(entry.shared, QUESTION) or params.get("prompt"),
            reference=first_text(entry.shared, REFERENCE) or "",
        )
        repeats[key] += 1
        try:
            record, facts = fill_record(record, entry, stages, unit, required, limit)
        except UnusableValueError as fault:
            record = replace(record, error=str(fault), error_stage=fault.stage)
            facts = FileFacts(fault=fault.kind)
        records.append(record)
        all_facts.append(facts)
    stage_of = STAGE_MAPS[len(stages)] if stages else {}
    mapped = ", ".join(f"{number} is {name}" for number, name in stage_of.items())
    return LegacyRun(
        model=source.name,
        layout=file.layout,
        records=tuple(records),
        facts=tuple(all_facts),
        params=params,
        stage_of=stage_of,
        unit=unit,
        unit_evidence=evidence,
        claimed_samples=_claimed_samples(file),
        notes=(f"stages of the file: {mapped}",) if mapped else (),
    )


def _with_missing(run: LegacyRun, runs: Sequence[LegacyRun]) -> LegacyRun:
    """The run with a failed record for each sample that only other models of the file have."""
    mine = {(record.key, record.repeat) for record in run.records}
    missing: dict[tuple[str, int], SampleRecord] = {}
    for other in runs:
        missing |= {(r.key, r.repeat): r for r in other.records if (r.key, r.repeat) not in mine | set(missing)}
    added = tuple(
        SampleRecord(
            key=record.key,
            sample_id=record.sample_id,
            position=len(run.records) + i,
            repeat=record.repeat,
            question=record.question,
            reference=record.reference,
            error=f"the file has no result of {run.model}",
            error_stage="load",
        )
        for i, record in enumerate(missing.values())
    )
    facts = (FileFacts(fault="missing"),) * len(added)
    return replace(run, records=run.records + added, facts=run.facts + facts) if added else run


def _claimed_samples(file: ResultFile) -> int | None:
    found = (file.statistics.get(name, file.config.get(name)) for name in CLAIMED_SAMPLES)
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)
