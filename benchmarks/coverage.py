"""How often 95 % intervals of a ratio cover it, and how often a table of ten rows without any difference claims one.

    python benchmarks/coverage.py            # the table of docs/statistics.md, as Markdown; a minute or two
    TIMES=1000 python benchmarks/coverage.py # coarser

Two configurations of R processes each over n samples in as many clusters or fewer. Standard deviations of logarithms:
between processes 0 to 20 %, of the ratio between samples or clusters (interaction) 0 or 5 %, within a process 3 %.
"""

from __future__ import annotations

import os
from itertools import product

import numpy as np

from fourstage.stats.simulation import Study, coverage, results

TIMES = int(os.environ.get("TIMES", "4000"))
PROCESS = (0.0, 0.03, 0.1, 0.2)
INTERACTION = (0.0, 0.05)
REPLICATES = (2, 3, 5, 10)
SAMPLES = ((4, 4), (20, 20), (20, 5), (200, 200), (200, 10))  # and clusters
ROWS = 10


def line(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def tables_that_claim(study: Study) -> float:
    """Share of tables of ROWS independent rows of which one is called different after Holm's correction."""
    _, parts = results(study, TIMES // ROWS * ROWS, seed=1)
    claimed = np.concatenate([np.abs(estimate) > variance.half_width(1 - 0.05 / ROWS) for estimate, variance in parts])
    return float(claimed.reshape(-1, ROWS).any(axis=1).mean())


def main() -> None:
    worlds = list(product(PROCESS, INTERACTION))
    heads = [f"{100 * process:g} / {100 * interaction:g}" for process, interaction in worlds]
    print(f"Coverage in %, {TIMES} simulations each; columns: process effect / interaction in %\n")
    line("R", "samples", "clusters", *heads)
    line(*["---"] * (3 + len(heads)))
    for replicates, (samples, clusters) in product(REPLICATES, SAMPLES):
        found = [coverage(Study(replicates, samples, p, i, clusters), TIMES) for p, i in worlds]
        line(replicates, samples, clusters, *[f"{100 * share:.1f}" for share in found])
    print(f"\nTables of {ROWS} rows with a false claim after Holm, in %, of {TIMES // ROWS}\n")
    line("R", "samples", "clusters", *heads)
    line(*["---"] * (3 + len(heads)))
    for replicates, (samples, clusters) in product(REPLICATES, SAMPLES[:3]):
        found = [tables_that_claim(Study(replicates, samples, p, i, clusters)) for p, i in worlds]
        line(replicates, samples, clusters, *[f"{100 * share:.1f}" for share in found])
    print("\nSides that differ in their process effect (5 % and less), interaction 2 %: coverage in %\n")
    line("R", "samples", "5 : 5", "5 : 1.7", "5 : 0.5", "5 : 0.05")
    line(*["---"] * 6)
    for replicates, samples in product(REPLICATES, (4, 20, 200)):
        found = [
            coverage(Study(replicates, samples, 0.05, 0.02, target_process=0.05 / factor), TIMES)
            for factor in (1, 3, 10, 100)
        ]
        line(replicates, samples, *[f"{100 * share:.1f}" for share in found])


if __name__ == "__main__":
    main()
