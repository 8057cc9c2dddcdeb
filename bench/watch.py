"""Watch: what a run does and costs, seen from inside its process and alike for every system.

Knows no system: it looks at torch's optimizers, backward passes and embeddings, and at what transformers loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl", "llamafactory", "unsloth", "axolotl")


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (most so far) of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def processor_seconds() -> float:
    """Processor time of this process, all its threads, and of its children that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def draw_alike() -> None:
    """From now on LoRA's random matrices depend on their shape alone, so that every system starts from the same."""
    draw = nn.init.kaiming_uniform_

    def drawn(tensor: Tensor, *args: Any, **more: Any) -> Tensor:
        if tensor.device.type != "meta":
            more["generator"] = torch.Generator().manual_seed(tensor.numel())
            values = draw(torch.empty(tensor.shape), *args, **more)
            with torch.no_grad():
                tensor.copy_(values)
        return tensor

    nn.init.kaiming_uniform_ = drawn


class Done(BaseException):
    """The last step that is measured was made: what follows, such as writing the model, is not waited for."""


class Turns:
    """The other end of turns.Running: a run goes on only when it is told to, so that runs of several systems alternate."""

    def __init__(self, hear: int | None = None, tell: int | None = None):
        self.hear, self.tell = hear, tell

    def end(self, words: dict[str, Any]) -> None:
        """Tell what was done, and wait for the next turn."""
        if self.hear is not None and self.tell is not None:
            os.write(self.tell, json.dumps(words).encode() + b"\n")
            if not os.read(self.hear, 1):
                raise SystemExit("who gives the turns has gone")


class Watch:
    """Notes of a run, one for each optimizer step.

    vocabulary: rows of the embedding whose input is looked at; pad_id: the id that is no token of a text; last: steps to make.
    spawned: time.time() when the command was given.
    """

    def __init__(self, vocabulary: int, pad_id: int, last: int, *, spawned: float, turns: Turns):
        self.vocabulary, self.pad_id, self.last, self.spawned, self.turns = vocabulary, pad_id, last, spawned, turns
        self.notes: dict[str, Any] = {"loading": 0.0, "weights": 0, "steps": []}
        self.ids: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.depth, self.since = 0, (0.0, 0.0)

    def start(self) -> RemovableHandle:
        """Look at every load, embedding, backward pass and optimizer step from now on; the handle takes the last away."""
        for kind in (PreTrainedTokenizerBase, PreTrainedModel):
            self.mark_loads(kind)
        embed, backward, forget = nn.Embedding.forward, Tensor.backward, torch.optim.Optimizer.zero_grad

        def looked_up(module: nn.Embedding, ids: Tensor) -> Tensor:
            # hone rehearses a step in tensors without memory
            rehearsed = isinstance(ids, FakeTensor) or isinstance(module.weight, FakeTensor) or module.weight.is_meta
            if module.num_embeddings == self.vocabulary and torch.is_grad_enabled() and not rehearsed:
                self.notes.setdefault("ready", processor_seconds())
                self.ids.append(ids.detach())
            return embed(module, ids)

        def watched(loss: Tensor, *args: Any, **more: Any) -> None:
            if self.ids and not isinstance(loss, FakeTensor):  # hone's plan tries how fast attention is, of no ids
                self.losses.append(loss.detach())
            backward(loss, *args, **more)

        @wraps(forget)  # accelerate looks at its arguments
        def forgotten(optimizer: torch.optim.Optimizer, *args: Any, **more: Any) -> None:
            self.ids.clear()  # gradients that no step was made of, as of a trial, are not learned from
            self.losses.clear()
            forget(optimizer, *args, **more)

        torch.optim.Optimizer.zero_grad = forgotten  # type: ignore[method-assign]
        nn.Embedding.forward = looked_up  # type: ignore[method-assign]
        Tensor.backward = watched  # type: ignore[method-assign]
        return register_optimizer_step_post_hook(self.stepped)

    def mark_loads(self, kind: Any) -> None:
        """Note what is resident before the first load of all, and what loading weights takes."""
        load = kind.from_pretrained.__func__

        def from_pretrained(cls: type, *args: Any, **more: Any) -> Any:
            self.notes.setdefault("imported", {"bytes": resident("VmRSS"), "cpu": processor_seconds()})
            self.depth += 1
            begun = processor_seconds()
            loaded = load(cls, *args, **more)
            self.depth -= 1
            model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info there is more
            if isinstance(model, PreTrainedModel) and not self.depth:
                self.notes["loading"] += processor_seconds() - begun
                self.notes["weights"] += sum(weight.numel() * weight.element_size() for weight in model.parameters())
            return loaded

        kind.from_pretrained = classmethod(from_pretrained)

    def stepped(self, *_: Any) -> None:
        """Note an optimizer step that was made, then wait for the next turn; raises Done after the last."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = (time.perf_counter(), processor_seconds())
        step = {"wall": now[0] - self.since[0], "cpu": now[1] - self.since[1], **self.seen()}
        if not self.notes["steps"]:
            step |= {"wall": time.time() - self.spawned, "cpu": now[1]}
        self.notes["steps"].append(step)
        self.notes["peak"] = resident("VmHWM")
        if torch.cuda.is_available():
            self.notes["device"] = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        self.turns.end(step)
        if len(self.notes["steps"]) == self.last:
            raise Done
        self.since = (time.perf_counter(), processor_seconds())

    def seen(self) -> dict[str, Any]:
        """Tokens, their distinct ids' digest, places and loss since the last step.

        Ids are distinct as a row that holds the prompt of a pair once is the same work as one that holds it twice.
        """
        texts = torch.cat([ids[ids != self.pad_id].flatten() for ids in self.ids])
        places, loss = sum(ids.numel() for ids in self.ids), sum(loss.double().item() for loss in self.losses)
        digest = hashlib.sha256(json.dumps(texts.unique().tolist()).encode()).hexdigest()[:12]
        self.ids.clear()
        self.losses.clear()
        return {"tokens": len(texts), "places": places, "digest": digest, "loss": loss}

    def finish(self) -> dict[str, Any]:
        """The notes, with the versions of the libraries that were used."""
        return self.notes | {"versions": {name: version(name) for name in LIBRARIES if name in sys.modules}}
