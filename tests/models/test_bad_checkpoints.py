"""Generated bad checkpoints: each is refused in one line that names its file, or works; none hangs or takes memory."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourstage.models import building
from fourstage.stages import SampleError, UserError
from tests.models.bad_checkpoints import Change, cases, every_tensor, in_json, in_tensor, special
from tests.models.conftest import GREEDY, media
from tests.models.test_checkpoints import load, load_hf, publish, publish_hf, refusal
from tests.small import SMALL

LOADERS: dict[str, Callable[[Any], Any]] = {"eventgpt": load, "videollava": load_hf}
CHOSEN = [(model, *case) for model in LOADERS for case in cases(model, random.Random(7), count=120)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("good")
    return {"eventgpt": publish(root / "eventgpt"), "videollava": publish_hf(root / "videollava")}


@pytest.fixture
def copy(good: dict[str, Path]) -> Iterator[Callable[[str], Path]]:
    """Makes a copy that the test may spoil; hundreds of them are not left behind."""
    with tempfile.TemporaryDirectory() as root:
        yield lambda model: Path(shutil.copytree(good[model], Path(root) / model))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(("model", "name", "change"), CHOSEN, ids=[f"{model} {name}" for model, name, _ in CHOSEN])
def test_a_generated_bad_checkpoint_is_refused_in_one_line_or_works(
    copy: Callable[[str], Path], model: str, name: str, change: Change
) -> None:
    folder = copy(model)
    change(folder)
    start, before = time.process_time(), peak_bytes()
    try:
        pipeline = LOADERS[model](folder)
    except UserError as error:
        message = str(error)
        assert str(folder) in message
        assert message.isprintable()
        assert len(message) < 900
    else:
        inputs = pipeline.inputs(pipeline.pixels([media(2)]), [media(2)], ["Is it day?"])
        generation = pipeline.decode(inputs, pipeline.encode(inputs), GREEDY, lambda: None)
        assert generation.token_ids[0]
    assert time.process_time() - start < 10
    assert peak_bytes() - before < 400e6
    assert not (folder / "ran").exists()


REFUSED: dict[str, tuple[str, Change, str]] = {
    "layers": ("eventgpt", in_json("config.json", (), "num_hidden_layers", 10**7),
               "config.json: num_hidden_layers is 10000000, and the weights hold 2 layers at most"),
    "billion layers": ("videollava", in_json("config.json", ("text_config",), "num_hidden_layers", 10**9),
                       "config.json: text_config: num_hidden_layers is 1000000000, expected a whole number from 1 to"),
    "no text": ("videollava", in_json("config.json", (), "text_config", None),
                "config.json: text_config is null, expected an object"),
    "context": ("videollava", in_json("config.json", ("text_config",), "max_position_embeddings", 0),
                "config.json: text_config: max_position_embeddings is 0, expected a whole number from 1 to"),
    "heads": ("eventgpt", in_json("config.json", (), "num_key_value_heads", 4),
              "config.json: num_attention_heads is 6, no multiple of num_key_value_heads 4"),
    "true": ("eventgpt", in_json("config.json", (), "vocab_size", True), "config.json: vocab_size is true, expected"),
    "text for a flag": ("eventgpt", in_json("config.json", (), "mm_use_im_start_end", "false"),
                        "config.json: mm_use_im_start_end is 'false', expected true or false"),
    "patch": ("eventgpt", in_json("clip-tower/config.json", (), "patch_size", 57),
              "clip-tower/config.json: patch_size is 57, larger than image_size 56"),
    "image token": ("videollava", in_json("config.json", (), "image_token_index", 10**6),
                    "config.json: image_token_index is 1000000, expected a whole number from 0 to"),
    "end": ("eventgpt", in_json("generation_config.json", (), "eos_token_id", [2, "x"]),
            "generation_config.json: eos_token_id is [2, 'x'], expected a whole number from 0 to"),
    "padding": ("eventgpt", in_json("config.json", (), "pad_token_id", 10**6), "config.json: pad_token_id is 1000000"),
    "rope": ("eventgpt", in_json("config.json", ("rope_scaling",), "factor", 0),
             "config.json: rope_scaling: factor is 0, expected a number above 0"),
    "pixels": ("eventgpt", in_json("clip-tower/preprocessor_config.json", (), "image_std", [0, 1, 1]),
               "preprocessor_config.json: image_std is [0, 1, 1], expected a list of 3, each a number above 0"),
    "resize": ("videollava", in_json("preprocessor_config.json", (), "size", {"shortest_edge": 10**6}),
               "preprocessor_config.json: size is {'shortest_edge': 1000000}, expected"),
    "int8": ("videollava", every_tensor(lambda tensor: tensor.to(torch.int8)), " is I8, expected one of BF16"),
    "bool": ("eventgpt", in_tensor("norm.weight", lambda tensor: tensor.bool()), "norm.weight is BOOL, expected one"),
    "float8": ("eventgpt", in_tensor("up_proj.weight", lambda tensor: tensor.to(torch.float8_e4m3fn)),
               "up_proj.weight is F8_E4M3, expected one"),
    "quantised": ("eventgpt", in_json("config.json", (), "quantization_config", {"bits": 4}),
                  "config.json has a quantization_config: use a checkpoint that is not quantised"),
    "NaN": ("videollava", in_tensor("up_proj.weight", lambda tensor: tensor * float("nan")),
            "up_proj.weight holds NaN or infinity in float32: use another checkpoint"),
    "tokenizer class": ("videollava", in_json("tokenizer_config.json", (), "tokenizer_class", "BertTokenizer"),
                        "tokenizer_config.json: tokenizer_class is 'BertTokenizer', expected one of LlamaTokenizer"),
    "loop": ("eventgpt", special("tokenizer_config.json", lambda path: path.symlink_to(path.name)),
             "tokenizer_config.json is a link that leads nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_file_key_value_and_expectation_are_named_before_a_model_is_built(
    copy: Callable[[str], Path], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, change, expected = REFUSED[fault]
    folder = copy(model)
    change(folder)
    if fault != "NaN":
        monkeypatch.setattr(building, "build", lambda *_: pytest.fail("a model was built"))
    assert expected in refusal(lambda: LOADERS[model](folder))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e5m2])
def test_a_bin_file_is_refused_for_the_same_dtypes(copy: Callable[[str], Path], dtype: torch.dtype) -> None:
    folder = copy("eventgpt")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state | {"model.norm.weight": state["model.norm.weight"].to(dtype)}, folder / "pytorch_model.bin")
    assert f"pytorch_model.bin: the tensor model.norm.weight is {dtype}" in refusal(lambda: load(folder))


def test_a_sparse_tensor_in_a_bin_file_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("eventgpt")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state["lm_head.weight"] = state["lm_head.weight"].to_sparse()
    torch.save(state, folder / "pytorch_model.bin")
    assert "the tensor lm_head.weight is sparse" in refusal(lambda: load(folder))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_dtype_is_read(copy: Callable[[str], Path], dtype: torch.dtype) -> None:
    folder = copy("videollava")
    saved = load_file(folder / "model.safetensors")
    every_tensor(lambda tensor: tensor.to(dtype))(folder)
    weight = load_hf(folder).model.lm_head.weight
    assert torch.equal(weight, saved["language_model.lm_head.weight"].to(dtype).float())


def test_a_tensor_in_two_shards_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("eventgpt")
    state = load_file(folder / "model.safetensors")
    for i in (1, 2):
        save_file({"lm_head.weight": state["lm_head.weight"]}, folder / f"model-0000{i}-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    assert "lm_head.weight is in another file of this checkpoint too" in refusal(lambda: load(folder))


def test_weights_that_overflow_in_the_runs_precision_say_which_precision_holds_them(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("eventgpt")
    in_tensor("up_proj.weight", lambda tensor: tensor * 1e8)(folder)
    load(folder)
    message = refusal(lambda: load(folder, "fp16"))
    assert message.endswith("up_proj.weight holds NaN or infinity in float16: use precision=fp32")


@pytest.mark.parametrize("fault", ["padding", "truncation"])
@pytest.mark.parametrize("model", LOADERS)
def test_padding_and_truncation_of_a_tokenizer_file_do_not_reach_the_prompt(
    copy: Callable[[str], Path], good: dict[str, Path], model: str, fault: str
) -> None:
    folder = copy(model)
    dict(cases(model, random.Random(0)))[f"tokenizer.json {fault}"](folder)
    expected = LOADERS[model](good[model]).prompt_ids("Is it day?", images=2)
    assert LOADERS[model](folder).prompt_ids("Is it day?", images=2).tolist() == expected.tolist()


@pytest.mark.real
def test_a_panic_of_the_tokenizers_library_is_one_line(
    copy: Callable[[str], Path], shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (file,) = (shared / "field" / "bad" / "13-tokenizer-panic").iterdir()
    folder = copy("videollava")
    shutil.copyfile(file, folder / "tokenizer.json")
    message = refusal(lambda: load_hf(folder))
    assert "tokenizer.json cannot be read, at its key normalizer (PanicException: " in message
    assert capfd.readouterr().err == ""  # Rust prints a panic past Python


def test_a_panic_while_a_question_is_tokenised_is_the_samples_fault(eventgpt: Any, monkeypatch: Any) -> None:
    panic = type("PanicException", (BaseException,), {})

    def raise_panic(*_: Any) -> Any:
        raise panic("index out of bounds")

    monkeypatch.setattr(eventgpt, "prompt_ids", raise_panic)
    with pytest.raises(SampleError, match="cannot process this text \\(index out of bounds\\)"):
        eventgpt.check_question("Is it day?", 5)


def test_a_mistake_of_ours_is_not_taken_for_a_faulty_file(good: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr("fourstage.models.eventgpt.pad_id", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load(good["eventgpt"])


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 5000, "a\0b", "a/b--c", "../x", "/dev/null"])
@pytest.mark.parametrize("model", LOADERS)
def test_a_path_that_cannot_be_one_is_refused_without_asking_a_hub(model: str, path: str) -> None:
    assert "weights.path" in refusal(lambda: LOADERS[model](path))


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        ("videollava", "tokenizer.json charsmap", "at its key normalizer"),
        ("eventgpt", "all int8", "is I8, expected one"),
    ],
)
def test_the_command_says_one_line_and_ends_with_1(
    copy: Callable[[str], Path], tmp_path: Path, model: str, name: str, expected: str
) -> None:
    folder = copy(model)
    dict(cases(model, random.Random(0)))[name](folder)
    command = [sys.executable, "-m", "fourstage.run", f"model={model}", "weights=pretrained", f"weights.path={folder}"]
    done = subprocess.run([*command, *SMALL], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert len([line for line in printed.splitlines() if expected in line]) == 1
    assert "Traceback" not in printed
    assert "panicked" not in printed
