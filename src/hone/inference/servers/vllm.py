"""VllmClient: vLLM's protocol, /v1/completions with token ids in and out.

Does not know conversations. Read from vllm/entrypoints/openai/completion of vLLM 0.32 and tried against that server on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from hone.errors import ModelError
from hone.inference.base import Request
from hone.inference.servers.ask import Ask, Line, Said, require_ending

OLDEST = (0, 11)
"""The first version that reads structured_outputs; an older one would leave a field that it does not know unread."""
_MOST_TOP = 20
"""Log-probs a token that vLLM tells unless it is started with another --max-logprobs."""


class VllmClient:
    """A Client. base: the model's name at the server; None for the first that it serves."""

    def __init__(self, url: str, key: str = ""):
        self._line = Line("vLLM", url, key)
        version = str(self._line.get("/version").get("version"))
        if (number := _number(version)) is not None and number < OLDEST:
            raise ModelError(f"vLLM {version} is too old: {'.'.join(map(str, OLDEST))} or newer is wanted")
        base = next((one for one in self._line.get("/v1/models")["data"] if not one.get("parent")), None)
        if base is None:
            raise self._line.wrong("it serves no model")
        self._base, self.limit = base["id"], base["max_model_len"]

    def refuse(self, request: Request) -> None:
        """As Client says."""
        if (request.steering.num_top or 0) > _MOST_TOP:
            raise ModelError(f"top_logprobs: vLLM tells {_MOST_TOP} at most")

    def draw(self, ask: Ask) -> Iterator[Said]:
        """As Client says."""
        num, last, reason = 0, None, None
        with closing(self._line.events("/v1/completions", self._body(ask))) as events:
            for event in events:
                for choice in event["choices"]:
                    for said in _said(choice, ask):
                        num, last = num + 1, said.id
                        yield said
                    reason = choice.get("finish_reason") or reason
        require_ending(self._line, ask, num, last, reason)

    def load_adapter(self, name: str, folder: Path) -> None:
        """As Client says."""
        self._line.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})

    def unload_adapter(self, name: str) -> None:
        """As Client says."""
        self._line.post("/v1/unload_lora_adapter", {"lora_name": name})

    def _body(self, ask: Ask) -> dict[str, Any]:
        """Every number is said, so that none comes from the model's own generation_config.json."""
        settings, steering = ask.settings, ask.steering
        body: dict[str, Any] = {
            "model": ask.adapter or self._base,
            "prompt": ask.ids,
            "max_tokens": ask.num_new,
            "stream": True,
            "temperature": settings.temperature if settings.do_sample else 0.0,
            "top_p": settings.top_p if settings.do_sample else 1.0,
            "top_k": settings.top_k if settings.do_sample else 0,
            "min_p": 0.0,
            "repetition_penalty": settings.repetition_penalty,
            "presence_penalty": steering.presence_penalty,
            "frequency_penalty": steering.frequency_penalty,
            "stop_token_ids": list(ask.stop_ids),
            "ignore_eos": True,  # the codec's stop tokens and no others
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        if ask.seed is not None:
            body["seed"] = ask.seed
        if steering.logit_bias:
            body["logit_bias"] = {str(id): value for id, value in steering.logit_bias.items()}
        if steering.num_top is not None:
            body |= {"logprobs": steering.num_top, "return_tokens_as_token_ids": True}
        if ask.allowed:
            body["allowed_token_ids"] = list(ask.allowed)
        if ask.json_schema:
            body["structured_outputs"] = {"json": json.loads(ask.json_schema)}
        return body


def _said(choice: dict[str, Any], ask: Ask) -> Iterator[Said]:
    ids, told = choice.get("token_ids") or [], choice.get("logprobs")
    for place, id in enumerate(ids):
        if told is None:
            yield Said(id)
            continue
        top = ((int(name.removeprefix("token_id:")), value) for name, value in told["top_logprobs"][place].items())
        best = sorted(top, key=lambda one: -one[1])[: ask.steering.num_top]
        yield Said(id, told["token_logprobs"][place], tuple(best))


def _number(version: str) -> tuple[int, ...] | None:
    """(0, 32) of "0.32.0+cpu"; None of what is no release."""
    parts = version.split(".")[:2]
    return tuple(map(int, parts)) if len(parts) == 2 and all(part.isdigit() for part in parts) and "dev" not in version else None
