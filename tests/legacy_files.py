"""Result files as people write them, clean, of which tests make faulty ones. Times are seconds times `scale`."""

from __future__ import annotations

from typing import Any

SENTENCE = "A car is driving down the road past a row of trees."
STEP_S = 0.020


def tokens_of(i: int) -> int:
    """Lengths between 40 and 88, not in order."""
    return 40 + 7 * i % 49


def text_of(tokens: int) -> str:
    """A text for so many tokens: a word and a bit each."""
    words = " ".join(SENTENCE.split() * 10).split()[: tokens * 3 // 4]
    return " ".join(words).rstrip(".") + "."


def ids_of(tokens: int) -> list[int]:
    return [*range(500, 499 + tokens), 2]


def noise(i: int) -> float:
    """Within 1 %, without a trend."""
    return 1 + 0.01 * ((i * 37 % 11) - 5) / 5


def prefixed(n: int = 20, scale: float = 1.0) -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        row: dict[str, Any] = {
            "id": f"id{i}",
            "query": "What is there?",
            "event_data": f"drive/{i}.npy",
            "video_data": f"drive/{i}",
        }
        for prefix, text_key, tokens, load in (
            ("egpt", "egpt", tokens_of(i), 0.02),
            ("llava", "llava-1.5-7b-hf", 30 + tokens_of(i), 0.7),
        ):
            stages = [load * noise(i), 0.03 * noise(i + 1), (0.1 + STEP_S * tokens) * noise(i + 2)]
            row |= {text_key: text_of(tokens), f"{prefix}_token_ids": ids_of(tokens)}
            row |= {f"{prefix}_stage{k}_time": scale * seconds for k, seconds in enumerate(stages, 1)}
            row[f"{prefix}_time"] = scale * (sum(stages) + 0.0005)
        rows.append(row)
    return rows


def lists(n: int = 20, scale: float = 1.0) -> dict[str, Any]:
    def rows(load: float, more: int) -> list[dict[str, Any]]:
        made = []
        for i in range(n):
            tokens = more + tokens_of(i)
            stages = [load * noise(i), 0.03 * noise(i + 1), 0.05 * noise(i + 2), (0.1 + STEP_S * tokens) * noise(i)]
            made.append(
                {"sample": f"drive/{i}.npy"}
                | {f"stage{k}_time": scale * seconds for k, seconds in enumerate(stages, 1)}
                | {"total_time": scale * sum(stages), "tokens": tokens, "token_ids": ids_of(tokens)}
                | {"output": text_of(tokens)}
            )
        return made

    config = {"temperature": 0.2, "max_new_tokens": 512, "dtype": "torch.float16", "note": "night run"}
    return {"config": config, "eventgpt_results": rows(0.02, 0), "videollava_results": rows(0.7, 30)}


def nested(n: int = 20, scale: float = 1.0) -> dict[str, Any]:
    def model(i: int, load: float, more: int, prompt: int) -> dict[str, Any]:
        tokens = more + tokens_of(i)
        stages = [load * noise(i), 0.03 * noise(i + 1), 0.05 * noise(i + 2), 0.11 * noise(i + 3)]
        stages.append(STEP_S * (tokens - 1) * noise(i + 4))
        return {f"stage{k}_time": scale * seconds for k, seconds in enumerate(stages, 1)} | {
            "prefill_length": prompt,
            "output_tokens": tokens,
            "output_text": text_of(tokens),
            "avg_token_time": scale * stages[-1] / tokens,
        }

    results = [
        {"sample_idx": i, "eventgpt": model(i, 0.02, 0, 640), "videollava": model(i, 0.7, 30, 2100)} for i in range(n)
    ]
    return {
        "dataset_name": "dsec_1s",
        "config": {"max_new_tokens": 512, "eventgpt": {"model_path": "weights/EventGPT-7b"}},
        "statistics": {"total_samples": n},
        "results": results,
        "errors": [],
    }
