"""A language model and a vision tower as captured CUDA graphs; `graph.py` is the engine that uses them.

For LLaMA-family language models, batch 1 to 8 and more: static cache, one graph launch a token, no synchronisation
between tokens. A decode step (decoder, choice of the token, end of sequence) is captured once per batch size and way
of choosing; the host enqueues `AHEAD` steps and polls for their tokens, so the device never waits for it. Without CUDA
the same mathematics runs uncaptured. `report` says what ran.

    decoder = CapturedDecoder(model)
    ids = decoder.generate(embeds, mask, sampling, eos_ids=(2,), pad_id=0, on_token=tick)   # [B, steps]
    decoder.close()      # gives back cache, buffers and graphs

Captured, `on_token(at)` is called at the end of the answer, once for each token, with the time at which the device
wrote it, by the device's own clock. It is never called for steps enqueued beyond the end of sequence, and no id after
the end token is returned (rows that end earlier get `pad_id`). It leaves out beams, and models whose mathematics
differs (see `llama.check`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fourstage.engines import llama, llama_kernels
from fourstage.engines.choosing import choose
from fourstage.engines.clip import fused_layers
from fourstage.stages import MeasurementError, OnToken, Sampling, UserError

ATTENTIONS = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip
AHEAD = 2  # steps on the device or in its queue: one runs, one waits; after an end token one step is wasted
BUCKET = 512  # slots by which a cache grows; a longer prompt captures again
MAX_ENDS = 8


@dataclass
class Report:
    """What a decoder ran with, for the record."""

    captured: bool  # decode steps ran as a CUDA graph
    kernels: str  # "triton" or "torch", of the batch that ran last
    why: str  # where kernels or capture are not the fastest there are: the reason; else ""
    dependent_launch: bool  # kernels start while their predecessors end
    extra_bytes: int = 0  # weights held besides the model's own: none, they are shared
    cache_bytes: int = 0  # keys, values and tables, all batch sizes
    buffer_bytes: int = 0  # other tensors that graphs hold
    graph_pool_bytes: int = 0  # reserved by capturing
    prefill_graphs: int = 0  # prefills so far that replayed a CUDA graph
    prefill_launches: int = 0  # and those that were launched kernel by kernel
    captures: int = 0  # graphs captured so far; one that grows within a measurement was measured too


@dataclass
class _Rows:
    """Everything of one batch size: cache, buffers, graphs."""

    cache: llama.Cache
    buffers: llama_kernels.Buffers
    triton: bool  # else torch's operations
    graphs: dict[Hashable, Any] = field(default_factory=dict)  # of steps, by the way of choosing
    prefills: dict[int, Any] = field(default_factory=dict)  # of unpadded prompts, by their length

    def release(self) -> None:
        """Destroy the graphs; their memory is free once nothing refers to it."""
        for graph, *_ in (*self.graphs.values(), *self.prefills.values()):
            graph.reset()
        self.graphs.clear()
        self.prefills.clear()


class CapturedDecoder:
    """A loaded model's decoder with static cache and captured steps. Not for use by two threads at once.

    `kernels`: "auto" (Triton where they cover the model, else torch), "triton" (UserError where they do not) or
    "torch". `generator`: the source of sampling's noise; None is torch's default one, as seeded by the run.
    """

    def __init__(
        self,
        model: Any,
        *,
        kernels: str = "auto",
        dependent_launch: bool | None = None,
        ahead: int = AHEAD,
        generator: torch.Generator | None = None,
    ):
        if kernels not in ("auto", "triton", "torch"):
            raise ValueError(f"kernels must be auto, triton or torch, found {kernels!r}")
        self.weights = llama.LlamaWeights.of(model)
        self.kernels, self.ahead, self.generator = kernels, ahead, generator
        self._rows: dict[int, _Rows] = {}
        self._pool: Any = None
        cuda = self.weights.device.type == "cuda"
        why = self._why_torch(1)
        hopper = cuda and torch.cuda.get_device_capability(self.weights.device) >= (9, 0)
        self.report = Report(
            captured=cuda,
            kernels="torch" if why else "triton",
            why=why,
            dependent_launch=not why and (hopper if dependent_launch is None else dependent_launch),
        )

    def prepare(self, batch: int, slots: int, sampling: Sampling, prompts: Sequence[int] = ()) -> None:
        """Allocate and capture ahead of the first `generate`, for up to `slots` tokens of prompt and answer.

        `prompts`: lengths whose prefill is captured too, unpadded; a prefill of another length is launched kernel
        by kernel, which takes the host some 10 ms at 7B.
        """
        with torch.inference_mode():
            rows = self._rows_for(batch, slots)
            self._graph(rows, sampling)
            for length in dict.fromkeys(prompts):
                self._capture_prefill(rows, length)

    def generate(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        sampling: Sampling,
        eos_ids: Sequence[int],
        pad_id: int,
        on_token: OnToken,
    ) -> Tensor:
        """New ids [batch, steps] on the host, after embeddings [batch, rows, hidden], left-padded where the mask is 0.

        `steps` ends with the step at which the last row ended, or is `max_new_tokens`.
        Raises UserError for beams, MeasurementError where the steps do not come back from the device.
        """
        if sampling.num_beams != 1:
            raise UserError(f"engine=graph has no beam search (num_beams {sampling.num_beams}): use engine=eager")
        with torch.inference_mode():
            ends = tuple(eos_ids) if sampling.stop == "natural" else ()
            rows, padded = self._begin(inputs_embeds, attention_mask, sampling.max_new_tokens, ends, pad_id)
            graph = self._graph(rows, sampling)
            logits = self._prefill(rows, inputs_embeds, padded)
            answer = _Answer(rows.cache.batch, sampling.max_new_tokens, ends, pad_id)
            if self.report.captured:
                self._run_ahead(rows, graph, logits, sampling, answer, on_token)
            else:
                self._run_here(rows, logits, sampling, answer, on_token)
            return answer.ids()

    def logits(self, inputs_embeds: Tensor, attention_mask: Tensor, forced_ids: Tensor) -> Tensor:
        """Logits [batch, steps, vocabulary] fp32 on the host, when the answer is `forced_ids` [batch, steps].

        Step i is what the next token is chosen from after i forced ones; it runs what `generate` runs.
        """
        with torch.inference_mode():
            steps = forced_ids.shape[1]
            rows, padded = self._begin(inputs_embeds, attention_mask, steps, (), 0)
            forced = forced_ids.to(self.weights.device)
            graph = self._forced_graph(rows)  # before the prefill: a capture writes to the first slots
            found = [self._prefill(rows, inputs_embeds, padded).cpu()]
            for i in range(steps - 1):
                self._put(rows, forced[:, i])
                if graph is None:
                    found.append(self._step(rows).cpu())
                else:
                    graph[0].replay()
                    found.append(graph[1].cpu())
            return torch.stack(found, dim=1)

    def close(self) -> None:
        """Release cache, buffers and graphs. The engine may be used again, and captures again."""
        for rows in self._rows.values():
            rows.release()
        self._rows.clear()
        self._pool = None
        self._count()
        if self.report.captured:
            torch.cuda.synchronize(self.weights.device)
            free_captured()
        self.report.graph_pool_bytes = 0

    # What follows runs in inference mode.

    def _begin(self, embeds: Tensor, mask: Tensor, new: int, ends: tuple[int, ...], pad_id: int) -> tuple[_Rows, bool]:
        """The state of a batch before its prefill, and whether it has padding. The one synchronisation is here."""
        batch, prompt, _ = embeds.shape
        if len(ends) > MAX_ENDS:
            raise UserError(f"engine=graph knows up to {MAX_ENDS} end tokens, found {len(ends)}")
        rows = self._rows_for(batch, prompt + new)
        self.report.why = self._why_torch(batch)
        self.report.kernels = "triton" if rows.triton else "torch"
        pads = [int(count) for count in (prompt - mask.long().sum(-1)).tolist()]
        device = self.weights.device
        host = torch.zeros(batch + MAX_ENDS, dtype=torch.int64)
        host[:batch] = torch.tensor(pads)
        host[batch:] = torch.tensor([*ends, *[-1] * (MAX_ENDS - len(ends))])
        sent = host.to(device)
        rows.cache.start.copy_(sent[:batch])
        rows.buffers.ends.copy_(sent[batch:])
        rows.buffers.pad.fill_(pad_id)
        rows.buffers.finished.zero_()
        rows.buffers.alive.fill_(batch)
        return rows, any(pads)

    def _rows_for(self, batch: int, slots: int) -> _Rows:
        found = self._rows.get(batch)
        if found is not None and found.cache.slots >= slots:
            return found
        if found is not None:
            found.release()
            del self._rows[batch]
            del found
        with torch.inference_mode():
            cache = llama.Cache.empty(self.weights, batch, -(-slots // BUCKET) * BUCKET)
            buffers = llama_kernels.Buffers.empty(self.weights, batch)
            self._rows[batch] = _Rows(cache, buffers, triton=not self._why_torch(batch))
        self._count()
        return self._rows[batch]

    def _count(self) -> None:
        self.report.cache_bytes = sum(rows.cache.nbytes for rows in self._rows.values())
        self.report.buffer_bytes = sum(rows.buffers.nbytes for rows in self._rows.values())

    def _why_torch(self, batch: int) -> str:
        """Why a batch runs torch's operations; "" where it runs Triton's kernels. UserError where it must run them."""
        if self.weights.device.type != "cuda":
            why = "no CUDA device"
        else:
            why = llama_kernels.covers(self.weights, batch) or triton_missing()
        if self.kernels == "triton" and why:
            raise UserError(f"kernels=triton cannot run here: {why}")
        return why or ("asked for" if self.kernels == "torch" else "")

    def _prefill(self, rows: _Rows, embeds: Tensor, padded: bool) -> Tensor:
        found = None if padded else rows.prefills.get(embeds.shape[1])
        if found is not None:
            self.report.prefill_graphs += 1
            graph, given, logits = found
            assert isinstance(logits, Tensor)
            given.copy_(embeds)
            graph.replay()
            return logits
        self.report.prefill_launches += 1
        return self._launch_prefill(rows, embeds, padded)

    def _launch_prefill(self, rows: _Rows, embeds: Tensor, padded: bool) -> Tensor:
        run = llama_kernels.prefill if rows.triton else llama.prefill
        return run(self.weights, rows.cache, embeds, padded)

    def _capture_prefill(self, rows: _Rows, length: int) -> None:
        """Capture the prefill of an unpadded prompt of `length` rows."""
        if not self.report.captured or length in rows.prefills:
            return
        weights = self.weights
        given = torch.zeros(rows.cache.batch, length, weights.hidden, dtype=weights.dtype, device=weights.device)
        rows.cache.start.zero_()
        graph, logits = self._record(lambda: self._launch_prefill(rows, given, padded=False))
        rows.prefills[length] = (graph, given, logits)

    def _step(self, rows: _Rows, limit: int | None = None) -> Tensor:
        """Logits after the last token; uncaptured steps look at `limit` slots only."""
        if rows.triton:
            return llama_kernels.step(self.weights, rows.cache, rows.buffers, self.report.dependent_launch)
        if limit is None:
            limit = rows.cache.slots if self.report.captured else int(rows.cache.length[0]) + 1
        return llama.step(self.weights, rows.cache, limit)

    def _choose(self, rows: _Rows, logits: Tensor, sampling: Sampling, first: bool) -> None:
        """The next token into the state, on the device alone."""
        if rows.triton:
            chosen = None if sampling.greedy else choose(logits, sampling, self.generator)
            pdl = self.report.dependent_launch and not first
            llama_kernels.advance(self.weights, rows.cache, rows.buffers, logits, chosen, bump=not first, pdl=pdl)
            return
        b = rows.buffers
        chosen = torch.where(b.finished.bool(), b.pad, choose(logits, sampling, self.generator))
        rows.cache.token.copy_(chosen)
        b.finished.logical_or_((chosen[:, None] == b.ends).any(-1))

    def _put(self, rows: _Rows, tokens: Tensor) -> None:
        """`tokens` [B] as the last ones, whatever was chosen."""
        rows.cache.token.copy_(tokens)
        if rows.triton:
            rows.buffers.x.copy_(self.weights.embedding[tokens])

    def _graph(self, rows: _Rows, sampling: Sampling) -> Any:
        """The captured step of this way of choosing; None where nothing is captured."""
        key = (sampling.temperature, sampling.top_k, sampling.top_p) if not sampling.greedy else "greedy"

        def run() -> Tensor:
            logits = self._step(rows)
            self._choose(rows, logits, sampling, first=False)
            return logits

        found = self._captured(rows, key, run)
        return None if found is None else found[0]

    def _forced_graph(self, rows: _Rows) -> Any:
        def run() -> Tensor:
            logits = self._step(rows)
            if rows.triton:
                rows.cache.length += 1  # `advance` would have
            return logits

        found = self._captured(rows, "forced", run)
        if found is None and rows.triton:
            raise MeasurementError("Triton kernels ran without a graph")
        return found

    def _captured(self, rows: _Rows, key: Hashable, run: Callable[[], Tensor]) -> Any:
        if not self.report.captured:
            return None
        if key in rows.graphs:
            return rows.graphs[key]
        device = self.weights.device
        # a capture runs the step on garbage: what the row's prompt has set already is put back
        kept = [tensor.clone() for tensor in self._state(rows)]
        noise = self.generator or torch.cuda.default_generators[device.index or 0]
        noise_before = noise.get_state()
        rows.cache.length.fill_(1)
        rows.cache.start.zero_()
        graph, logits = self._record(run)
        for tensor, value in zip(self._state(rows), kept, strict=True):
            tensor.copy_(value)
        noise.set_state(noise_before)  # or the first answer of a seed would differ from the second
        rows.graphs[key] = (graph, logits)
        return rows.graphs[key]

    def _record(self, run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """A graph of `run`, and the tensor that its replays write."""
        device = self.weights.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # kernels are compiled and libraries make their workspaces here
                run()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # as capturing does: what it frees would hide what it takes
        before = torch.cuda.memory_reserved(device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            out = run()
        graph.replay()  # the first one uploads the graph: not within a measurement
        torch.cuda.synchronize(device)
        self.report.graph_pool_bytes += max(0, torch.cuda.memory_reserved(device) - before)
        self.report.captures += 1
        return graph, out

    def _state(self, rows: _Rows) -> list[Tensor]:
        b, cache = rows.buffers, rows.cache
        return [cache.length, cache.start, cache.token, b.finished, b.alive, b.x]

    def _run_here(self, rows: _Rows, logits: Tensor, sampling: Sampling, answer: _Answer, on_token: OnToken) -> None:
        """Steps one after the other, uncaptured."""
        self._choose(rows, logits, sampling, first=True)
        on_token()
        while not answer.take(rows.cache.token.tolist()):
            self._choose(rows, self._step(rows), sampling, first=False)
            on_token()

    def _run_ahead(
        self, rows: _Rows, graph: Any, logits: Tensor, sampling: Sampling, answer: _Answer, on_token: OnToken
    ) -> None:
        """Steps enqueued ahead of their tokens: the device goes from one to the next without the host."""
        ring = torch.empty(answer.wanted, rows.cache.batch, dtype=torch.int64, pin_memory=True)
        events: list[Any] = []
        start = torch.cuda.Event(enable_timing=True)
        start.record()
        seen: list[float] = []

        def enqueue() -> None:
            if events:
                graph.replay()
            else:
                self._choose(rows, logits, sampling, first=True)
            ring[len(events)].copy_(rows.cache.token, non_blocking=True)
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            events.append(event)

        ended = False
        while not ended:
            while len(events) < answer.wanted and len(events) - len(seen) < self.ahead:
                enqueue()
            done = events[len(seen)]
            while not done.query():
                pass  # polling: a sleep would be longer than a step of a small model
            seen.append(time.perf_counter())
            ended = answer.take(ring[len(seen) - 1].tolist())
        elapsed = [start.elapsed_time(event) / 1000 for event in events[: len(seen)]]
        # the device's clock in the host's: the poll that came soonest after its event is right to microseconds
        offset = min(host - device for host, device in zip(seen, elapsed, strict=True))
        for device in elapsed:
            on_token(offset + device)


class _Answer:
    """The tokens of a batch on the host, and whether all rows have ended."""

    def __init__(self, batch: int, wanted: int, ends: tuple[int, ...], pad_id: int):
        self.wanted, self.ends, self.pad_id = wanted, ends, pad_id
        self.steps: list[list[int]] = []
        self.finished = [False] * batch

    def take(self, tokens: list[int]) -> bool:
        """One step's tokens; true where it was the last."""
        tokens = [self.pad_id if over else token for token, over in zip(tokens, self.finished, strict=True)]
        self.steps.append(tokens)
        self.finished = [over or token in self.ends for token, over in zip(tokens, self.finished, strict=True)]
        return all(self.finished) or len(self.steps) == self.wanted

    def ids(self) -> Tensor:
        return torch.tensor(self.steps, dtype=torch.int64).t().contiguous()


class CapturedCall:
    """A function of a tensor as CUDA graphs, one per shape, in inference mode; without CUDA the function itself.

    For parts whose work depends on shapes alone, as a vision tower and its projector: `run(x, *fixed)` gives a tuple of
    tensors, `fixed` is hashable and part of what is captured. The CLIP layers inside `tower` are captured as fused
    kernels (`clip.py`). Each call returns tensors of its own.

        encode = CapturedCall(lambda pixels: (projector(tower(pixels)),), tower)
        (features,) = encode(pixels)
    """

    def __init__(self, run: Callable[..., tuple[Tensor, ...]], tower: nn.Module | None = None):
        self.run, self.tower = run, tower
        self.fused_layers = 0  # transformer layers of the tower that run as fused kernels
        self.graph_pool_bytes = 0
        self.unseen_calls = 0  # of the tower, in replayed graphs: its hooks run at capture only
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, x: Tensor, *fixed: Hashable) -> tuple[Tensor, ...]:
        """What `run` gives for x; a shape that was not seen before is captured first."""
        with torch.inference_mode():
            if not x.is_cuda:
                return self.run(x, *fixed)
            key = (x.shape, x.dtype, fixed)
            if key in self._graphs:
                self.unseen_calls += self._graphs[key].tower_calls
            else:  # the capture's own call of the tower executes nothing, and stands for the first replay
                self._graphs[key] = self._capture(x, fixed)
            graph = self._graphs[key]
            graph.given.copy_(x)
            graph.graph.replay()
            return tuple(tensor.clone() for tensor in graph.out)

    @property
    def captures(self) -> int:
        """Graphs that are held."""
        return len(self._graphs)

    def _capture(self, x: Tensor, fixed: tuple[Hashable, ...]) -> _Graph:
        given = x.clone()
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        fusing = contextlib.nullcontext() if self.tower is None or triton_missing() else fused_layers(self.tower)
        # cuDNN's attention is the fastest here, and its plan for a new shape is made once, at capture
        with fusing as found, sdpa_kernel(ATTENTIONS, set_priority=True), _calls_of(self.tower) as calls:
            self.fused_layers = found or 0
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.run(given, *fixed)
            torch.cuda.current_stream(x.device).wait_stream(stream)
            torch.cuda.synchronize(x.device)
            torch.cuda.empty_cache()  # as capturing does: what it frees would hide what it takes
            before = torch.cuda.memory_reserved(x.device)
            graph = torch.cuda.CUDAGraph()
            calls.clear()
            with torch.cuda.graph(graph, stream=stream):
                out = self.run(given, *fixed)
        self.graph_pool_bytes += max(0, torch.cuda.memory_reserved(x.device) - before)
        return _Graph(graph, given, out, len(calls))

    def close(self) -> None:
        """Release the graphs and their memory."""
        cuda = bool(self._graphs)
        for graph in self._graphs.values():
            graph.graph.reset()
        self._graphs.clear()
        self.graph_pool_bytes = 0
        if cuda:
            torch.cuda.synchronize()
            free_captured()


@dataclass(frozen=True)
class _Graph:
    """A captured call."""

    graph: Any
    given: Tensor  # that it reads
    out: tuple[Tensor, ...]  # that it writes
    tower_calls: int  # in one replay


@contextlib.contextmanager
def _calls_of(module: nn.Module | None) -> Iterator[list[None]]:
    """Forward calls of the module while the block runs, one entry each."""
    calls: list[None] = []
    if module is None:
        yield calls
        return
    hook = module.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


def free_captured() -> None:
    """Give back what captures left behind: cuBLAS keeps a workspace of 32 MiB for each stream that one used."""
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def triton_missing() -> str:
    """Why there are no Triton kernels; "" where there are."""
    from importlib.util import find_spec

    return "" if find_spec("triton") else "triton is not installed"
