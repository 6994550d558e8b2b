"""A sweep that is killed again and again, as a program of its own: `python -m tests.killed_sweep SEED KILLS WORD...`

Everything heavy is imported once and each try is a fork, so that kills fall into the work and not into imports.
Prints, as JSON, how long an undisturbed sweep took and how many tries ended by themselves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

from fourstage.cli.run import main


def begin(words: list[str]) -> int:
    """Begin a sweep in a process group of its own; gives the process."""
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
        os._exit(main(words))
    os.setpgid(process, process)
    return process


def ended(process: int, limit_s: float) -> int | None:
    """The exit code, if it ends within the limit."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def disturb(seed: int, kills: int, words: list[str]) -> dict[str, float]:
    """Run undisturbed once, then kill sweeps `kills` times at random moments, and at last let one end."""
    start = time.monotonic()
    assert ended(begin([*words, "sweep.name=whole"]), 200) == 0
    whole_s = time.monotonic() - start
    dice = random.Random(seed)
    done = sweeps = tries = 0
    while done < kills or sweeps == 0:
        tries += 1
        process = begin([*words, f"sweep.name=killed{sweeps}", "sweep.resume=true"])
        code = ended(process, dice.uniform(0, whole_s / 2) if done < kills else 200)
        if code is None:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            done += 1
        else:
            assert code == 0, f"try {tries} ended with {code}"
            sweeps += 1
    if (code := ended(begin([*words, f"sweep.name=killed{sweeps}", "sweep.resume=true"]), 200)) != 0:
        raise AssertionError(f"the last try ended with {code}")
    return {"whole_s": whole_s, "kills": done, "sweeps": sweeps + 1, "tries": tries}


if __name__ == "__main__":
    print(json.dumps(disturb(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
