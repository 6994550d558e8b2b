"""Pairing two runs sample by sample: a comparison is over the samples that both measured, and says so.

pairs = pair_keys(per_key(baseline_columns), per_key(target_columns))
pairs.target("encode_s") - pairs.baseline("encode_s")  # seconds, one for each key that succeeded in both
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourstage.records.columns import Columns
from fourstage.records.figures import COMPARISON, TOKENS_PER_S
from fourstage.stats.clusters import Floats, Ints

# the figures; then a sample's share of its batch's seconds, as the stages are shares too
QUANTITIES = (
    *(figure.field for figure in COMPARISON),
    *("prefill_share_s", "steps", "steps_share_s"),
)


@dataclass(frozen=True, eq=False)
class PerKey:
    """The successful samples of a run, one row a key: the mean over its repeats, NaN where nothing was measured."""

    keys: tuple[str, ...]  # in order of appearance
    failed: tuple[str, ...]  # keys that never succeeded
    values: Floats  # [keys, QUANTITIES]
    of_record: Ints  # row of each successful record
    calls: Ints  # and the call of the model that it came from
    batch_size: int  # the largest


@dataclass(frozen=True, eq=False)
class Pairs:
    """Two runs on the keys that succeeded in both, in the baseline's order."""

    keys: tuple[str, ...]
    baseline_values: Floats  # [keys, QUANTITIES]
    target_values: Floats
    clusters: Ints  # code of each key, from 0: keys that shared a call of the model are one
    only_baseline: tuple[str, ...]  # succeeded in the baseline alone
    only_target: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many keys succeeded in both."""
        return len(self.keys)

    def baseline(self, quantity: str) -> Floats:
        """One of QUANTITIES in the baseline, a value for each key."""
        return np.asarray(self.baseline_values[:, QUANTITIES.index(quantity)])

    def target(self, quantity: str) -> Floats:
        """One of QUANTITIES in the target, a value for each key."""
        return np.asarray(self.target_values[:, QUANTITIES.index(quantity)])


def per_key(columns: Columns) -> PerKey:
    """Average a run's successful samples by key; sentinels and failures are in no average.

    Prefill and steps also come as shares: divided by the record's batch size, as the four stages are.
    """
    measured = columns.measured
    done = measured.done
    size = done.batch_size
    with np.errstate(over="ignore"):  # of a decode of no time to speak of
        rate = done.output_tokens / np.where(done.decode_s > 0, done.decode_s, np.nan)
    derived = {
        TOKENS_PER_S.field: rate,
        "prefill_share_s": done.prefill_s / size,
        "steps": done.steps.astype(np.float64),
        "steps_share_s": done.token_sum_s / size,
    }
    values = np.stack([derived[name] if name in derived else getattr(done, name) for name in QUANTITIES], axis=1)
    # codes of the keys that succeeded, in order of their first success
    codes, first, rows = np.unique(done.key_codes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    rows = rank[rows.reshape(-1)]
    if len(codes) == len(done):
        means = values
    else:
        means = np.full((len(codes), len(QUANTITIES)), np.nan)
        for column, one in enumerate(values.T):
            there = ~np.isnan(one)
            sums = np.bincount(rows[there], weights=one[there], minlength=len(codes))
            counts = np.bincount(rows[there], minlength=len(codes))
            np.divide(sums, counts, out=means[:, column], where=counts > 0)
    failed = np.setdiff1d(measured.key_codes, codes)
    return PerKey(
        keys=tuple(done.keys[code] for code in codes[order]),
        failed=tuple(measured.keys[code] for code in failed),
        values=means,
        of_record=rows,
        calls=done.calls,
        batch_size=int(size.max(initial=1)),
    )


def pair_keys(baseline: PerKey, target: PerKey) -> Pairs:
    """Pair two runs by key. A key that failed in one of them pairs with nothing.

    Keys that went through the model in one call, in either run, are one cluster: they share its time. Where
    shuffled repeats chain nearly all keys together, the calls of the run with the larger batches are clusters,
    each key in the one of its first repeat.
    """
    row = {key: i for i, key in enumerate(baseline.keys)}
    right = np.array([i for i, key in enumerate(target.keys) if key in row], dtype=np.int64)
    left = np.array([row[target.keys[i]] for i in right], dtype=np.int64)
    order = np.argsort(left)
    left, right = left[order], right[order]
    keys = tuple(baseline.keys[i] for i in left)
    both = set(keys)
    return Pairs(
        keys=keys,
        baseline_values=baseline.values[left],
        target_values=target.values[right],
        clusters=_clusters(baseline, left, target, right),
        only_baseline=tuple(key for key in baseline.keys if key not in both),
        only_target=tuple(key for key in target.keys if key not in both),
    )


def _clusters(baseline: PerKey, left: Ints, target: PerKey, right: Ints) -> Ints:
    n, most = len(left), max(baseline.batch_size, target.batch_size)
    if most == 1:
        return np.arange(n)
    sides = [_calls_of_pairs(baseline, left), _calls_of_pairs(target, right)]
    codes, before = np.arange(n), -1
    while before != (before := int(codes.sum())):  # the least code spreads until all that are linked have it
        for pair_of, call in sides:
            least = np.full(call.max(initial=-1) + 1, n)
            np.minimum.at(least, call, codes[pair_of])
            np.minimum.at(codes, pair_of, least[call])
    codes = np.unique(codes, return_inverse=True)[1].reshape(-1)
    if codes.max(initial=-1) + 1 >= n / most / 2:
        return codes
    pair_of, call = sides[baseline.batch_size < target.batch_size]
    first = np.unique(pair_of, return_index=True)[1]
    return np.unique(call[first], return_inverse=True)[1].reshape(-1)


def _calls_of_pairs(run: PerKey, rows: Ints) -> tuple[Ints, Ints]:
    """Of each record that is in a pair: the pair's index and the call it came from."""
    index = np.full(len(run.keys), -1)
    index[rows] = np.arange(len(rows))
    pair_of = index[run.of_record]
    return pair_of[pair_of >= 0], run.calls[pair_of >= 0]
