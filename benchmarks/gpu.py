"""How near the graph engine comes to the GPU's memory: both models at 7B, beside transformers' own loop.

Random weights at the published sizes, bf16, batch 1, a fixed number of greedy tokens; the engines take turns in one
process, so that both meet the same clock and the same neighbours. Prints medians beside the goals, for each model:

    ms a token and share of bandwidth   bytes of weights and KV cache that a step must read, over its time, over the
                                        bandwidth of a device-to-device copy (bytes read plus written) of this run
    prefill                             start of generate to the first token
    encode                              vision tower and projector: transformers' forward, and captured

    python benchmarks/gpu.py                  # or: make bench-gpu; about two minutes on an H100
    python benchmarks/gpu.py processes=6      # and the spread of TPOT between fresh processes
    python benchmarks/gpu.py json=out.json
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.models_7b import llama_7b, tower
from fourstage.engines import eager
from fourstage.engines.agreement import first_divergence
from fourstage.engines.captured import CapturedCall, CapturedDecoder
from fourstage.stages import Sampling

TOKENS, ROUNDS = 64, 5
MODELS = {"eventgpt": (32000, 646), "videollava": (32064, 2069)}  # vocabulary, rows of prompt and media
TOWERS = {"eventgpt": (336, -1, 5), "videollava": (224, -2, 8)}  # image size, hidden state, images
GOALS = {
    "H100": {"eventgpt": 5.3, "videollava": 5.6, "prefill": 45.0, "encode": 3.5},
    "H200": {"eventgpt": 3.6, "videollava": 3.8, "prefill": 45.0, "encode": 3.5},
}
FIXED = Sampling(temperature=0, top_p=1, top_k=0, max_new_tokens=TOKENS, stop="fixed")


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device")
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    torch.backends.cuda.enable_cudnn_sdp(False)  # as runs do: it makes a plan for every new length
    if "only" in options:  # one fresh process of the spread
        print(json.dumps(fresh(options["only"])))
        return
    name = torch.cuda.get_device_name()
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "copy_bytes_per_s": copy_bandwidth()}
    print(f"{name}, torch {torch.__version__}, copy {found['copy_bytes_per_s'] / 1e12:.2f} TB/s")
    for model in MODELS:
        found[model] = decode(model, found["copy_bytes_per_s"])
        found[model]["encode"] = encode(model)
        torch.cuda.empty_cache()
    table(found, next((goals for card, goals in GOALS.items() if card in name), {}))
    for model in MODELS if "processes" in options else ():
        runs = [spawned(model) for _ in range(int(options["processes"]))]
        mean, spread = statistics.mean(runs), statistics.stdev(runs)
        found[model]["processes_ms"] = runs
        print(f"{model}: TPOT of {len(runs)} processes {mean:.3f} ms, standard deviation {100 * spread / mean:.2f} %")
    if "json" in options:
        Path(options["json"]).write_text(json.dumps(found, indent=1))


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 2 GiB within the device, median of 20."""
    source = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (median_ms(lambda: target.copy_(source), 20) / 1000)


def median_ms(run: Callable[[], Any], times: int) -> float:
    """Median milliseconds of `run` between CUDA events, after three runs that warm up."""
    for _ in range(3):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(events))


def prompt(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random embeddings [1, rows, 4096] and their mask."""
    generator = torch.Generator("cuda").manual_seed(1)
    embeds = 0.02 * torch.randn(1, rows, 4096, device="cuda", generator=generator)
    return embeds.to(torch.bfloat16), torch.ones(1, rows, dtype=torch.long, device="cuda")


def timed(generate: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Ids, milliseconds of prefill and per token of one call; an engine that gives no times is waited for."""
    times: list[float] = []

    def tick(at: float | None = None) -> None:
        if at is None:
            torch.cuda.synchronize()
        times.append(time.perf_counter() if at is None else at)

    torch.cuda.synchronize()
    start = time.perf_counter()
    ids = generate(*arguments, FIXED, (2,), 0, tick)
    return {
        "ids": ids[0].tolist(),
        "prefill": 1000 * (times[0] - start),
        "token": 1000 * (times[-1] - times[0]) / (len(times) - 1),
    }


def decode(name: str, copy: float) -> dict[str, Any]:
    vocabulary, rows = MODELS[name]
    model = llama_7b(vocabulary)
    embeds, mask = prompt(rows)
    engine = CapturedDecoder(model)
    engine.prepare(1, rows + TOKENS, FIXED, prompts=(rows,))
    engines: dict[str, Callable[..., Any]] = {
        "eager": lambda *arguments: eager.Engine(eager.Settings()).generate(model, *arguments),
        "graph": engine.generate,
    }
    runs: dict[str, list[dict[str, Any]]] = {engine_name: [] for engine_name in engines}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):  # the first warms up
            for engine_name, generate in engines.items():
                one = timed(generate, embeds, mask)
                if turn:
                    runs[engine_name].append(one)
        needed = engine.weights.bytes_per_step()
        needed += (rows + TOKENS // 2) * engine.weights.cache_bytes_per_slot()
        found: dict[str, Any] = {"bytes_per_step": needed, "rows": rows, "report": vars(engine.report).copy()}
        for engine_name, ones in runs.items():
            token = statistics.median(one["token"] for one in ones)
            found[engine_name] = {
                "token_ms": token,
                "prefill_ms": statistics.median(one["prefill"] for one in ones),
                "share": needed / (token / 1000) / copy,
                "all": [(one["token"], one["prefill"]) for one in ones],
            }
        forced = torch.tensor([runs["eager"][0]["ids"]])
        rest = model.get_input_embeddings()(forced[:, :-1].cuda())
        theirs = model(inputs_embeds=torch.cat([embeds, rest], dim=1), use_cache=False).logits[:, rows - 1 :]
        found["divergence"] = str(first_divergence(theirs, engine.logits(embeds, mask, forced), torch.bfloat16))
        found["repeats"] = all(one["ids"] == runs["graph"][0]["ids"] for one in runs["graph"])
    engine.close()
    return found


def encode(name: str) -> dict[str, float]:
    size, layer, images = TOWERS[name]
    module = tower(size, layer)
    pixels = torch.randn(images, 3, size, size, device="cuda").to(torch.bfloat16)
    with torch.inference_mode():
        plain = median_ms(lambda: module(pixels), 20)
        run = CapturedCall(lambda pixels: (module(pixels),), module)
        found = {"eager_ms": plain, "graph_ms": median_ms(lambda: run(pixels), 50), "images": images}
        theirs = module(pixels).float()
        found["difference"] = float((run(pixels)[0].float() - theirs).norm() / theirs.norm())
    run.close()
    return found


def fresh(name: str) -> float:
    """Milliseconds a token of the graph engine in this process, median of three answers after one."""
    vocabulary, rows = MODELS[name]
    model = llama_7b(vocabulary)
    embeds, mask = prompt(rows)
    engine = CapturedDecoder(model)
    return statistics.median([timed(engine.generate, embeds, mask)["token"] for _ in range(4)][1:])


def spawned(name: str) -> float:
    """`fresh` in a process of its own."""
    done = subprocess.run([sys.executable, __file__, f"only={name}"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"a process of the spread failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def table(found: dict[str, Any], goals: dict[str, float]) -> None:
    def goal(name: str, how: str = "<= {:.1f}") -> str:
        return how.format(goals[name]) if name in goals else ""

    print(f"{'':42}{'eager':>9}{'graph':>9}  goal")
    for model in MODELS:
        one = found[model]
        eagerly, graph, seen = one["eager"], one["graph"], one["encode"]
        lines = [
            (f"ms a token, {one['rows']} rows of prompt", eagerly["token_ms"], graph["token_ms"], goal(model)),
            ("share of copy bandwidth", eagerly["share"], graph["share"], ">= 0.85"),
            (f"prefill ms, {one['rows']} rows", eagerly["prefill_ms"], graph["prefill_ms"],
             goal("prefill") if one["rows"] > 2000 else ""),
            (f"encode ms, {seen['images']} images", seen["eager_ms"], seen["graph_ms"], goal("encode")),
        ]  # fmt: skip
        for text, first, second, aim in lines:
            print(f"{model + ': ' + text:42}{first:9.3f}{second:9.3f}  {aim}")
        print(f"{model}: first difference of greedy choice: {one['divergence']}")


if __name__ == "__main__":
    main()
