"""VllmSampler: rollouts by a vLLM server in an environment of its own, which takes over the policy's adapter as a PEFT folder.

Does not know optimizers, nor how an adapter is saved. Token ids go in and come out, so that both sides mean the same prompt.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from hone.errors import TrainingError
from hone.inference.rollout import Drawn, Prompt, Sampling
from hone.post import Unanswered, post

_SHOWN = 300
"""Bytes of an answer that an error repeats."""


class VllmSampler:
    """`VllmSampler("http://localhost:8000", folder, save, at_once=64, seconds=600).draw(prompts, sampling)`.

    The server runs the policy's base with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and sees `folder`.
    save: writes the policy's adapter into a folder. at_once: requests under way together; seconds: the longest one may take.
    Raises TrainingError, which names the URL, where the server does not do what is asked.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        save: Callable[[Path], None],
        *,
        at_once: int,
        seconds: float,
    ):
        self._url, self._folder, self._save = url.rstrip("/"), folder, save
        self._at_once, self._seconds = at_once, seconds
        self._run, self._number = secrets.token_hex(4), 0  # a server remembers the names of earlier runs
        self._name = ""

    def refresh(self) -> None:
        """Write the adapter and have the server load it under a new name; the one before is let go."""
        name, before = f"hone-{self._run}-{self._number}", self._name
        self._save(self._folder / name)
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str((self._folder / name).resolve())})
        self._name, self._number = name, self._number + 1
        if before:
            self._post("/v1/unload_lora_adapter", {"lora_name": before})
            shutil.rmtree(self._folder / before)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Drawn]:
        """One answer a prompt, in order. top_p and top_k must leave all tokens in: else the server tells one figure of two."""
        assert sampling.top_p == 1 and sampling.top_k == 0, "the settings' rules refuse the others"
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda prompt: self._one(prompt, sampling), prompts))

    def close(self) -> None:
        """Let the server forget the adapter, and delete its folder."""
        if self._name:
            self._post("/v1/unload_lora_adapter", {"lora_name": self._name})
            shutil.rmtree(self._folder / self._name)
            self._name = ""

    def _one(self, prompt: Prompt, sampling: Sampling) -> Drawn:
        asked = {
            "model": self._name,
            "prompt": prompt.ids.tolist(),
            "max_tokens": sampling.num_new,
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "seed": prompt.seed,
            "stop_token_ids": list(sampling.stop_ids),
            "ignore_eos": True,  # the codec's stop tokens and no others
            "logprobs": 1,
            "return_token_ids": True,
        }
        said = self._post("/v1/completions", asked)
        try:
            (choice,) = json.loads(said)["choices"]
            ids = np.asarray(choice["token_ids"], dtype=np.int32)
            logprobs = np.asarray(choice["logprobs"]["token_logprobs"], dtype=np.float32)
            finished = choice["finish_reason"] == "stop"
        except (ValueError, KeyError, TypeError) as problem:
            told = f"{type(problem).__name__}: {problem}"
            raise TrainingError(
                f"{self._where()} answered {said[:_SHOWN]!r}; one choice is wanted, with token_ids (vLLM 0.10.2 and newer) and "
                f"logprobs ({told})"
            ) from problem
        if len(ids) != len(logprobs) or not len(ids) or finished != (int(ids[-1]) in sampling.stop_ids):
            raise TrainingError(
                f"{self._where()} gave {len(ids)} tokens with {len(logprobs)} log-probs, of which it says that they end by "
                f"{choice['finish_reason']}; a log-prob for each is wanted, and the stop token last where it ends by stop"
            )
        return Drawn(ids, logprobs, logprobs, finished, np.zeros(0, np.float32))

    def _where(self) -> str:
        return f"rollout_server: the server at {self._url}"

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        try:
            return post(self._url + path, body, seconds=self._seconds)
        except Unanswered as problem:
            refused = problem.status is not None and "lora_adapter" in path
            hint = "; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" if refused else ""
            raise TrainingError(f"{self._where()} {problem} (asked {path}){hint}") from problem
