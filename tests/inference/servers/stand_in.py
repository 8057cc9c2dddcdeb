"""Stand-ins for vLLM's and SGLang's servers: routes, fields and events as in their sources, tokens from a model here.

Does not know who asks. Nothing of hone's servers is used; tokens are drawn by hone's own rows, so that two runs can be compared.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from peft import PeftModel
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from hone.chat.codec import Codec
from hone.inference.asked import Asked
from hone.inference.base import Steering
from hone.inference.grammar import Grammar
from hone.inference.rows import Row
from hone.inference.steering import Openings, Steer

FIELDS = {
    "vllm": "model prompt max_tokens stream temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty "
    "stop_token_ids ignore_eos return_token_ids skip_special_tokens seed logit_bias logprobs return_tokens_as_token_ids "
    "allowed_token_ids structured_outputs",
    "sglang": "input_ids sampling_params stream lora_path return_logprob logprob_start_len top_logprobs_num",
}
"""A field that is not one of them would be taken and ignored by the server: here it fails."""
SAMPLING = (
    "max_new_tokens temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty stop_token_ids "
    "ignore_eos skip_special_tokens no_stop_trim sampling_seed logit_bias json_schema"
)

Drawn = tuple[int, float, list[tuple[int, float]], str | None]
"""Id, log-prob, the likeliest and why the answer ended, of a token."""


class StandIn:
    """`with StandIn("vllm", model, codec) as server: server.url`; asked: bodies; left: answers whose reader hung up.

    told: what the server says of itself, beside the usual. events: replaces the events of an answer, for servers that go wrong.
    """

    def __init__(
        self, kind: str, model: PreTrainedModel, codec: Codec, *, told: dict[str, Any] | None = None, events: Any = None
    ):
        self.kind, self._model, self._codec, self._events = kind, model, codec, events
        self._told = {"version": "0.32.0", "max_model_len": 400, **(told or {})}
        self._turn = threading.Lock()
        self.asked: list[dict[str, Any]] = []
        self.adapters: dict[str, PeftModel] = {}
        self.left = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def got(self, path: str) -> dict[str, Any]:
        """The JSON of a GET."""
        card = {"id": "base", "root": "base", "parent": None, "max_model_len": self._told["max_model_len"]}
        return {"/v1/models": {"data": [card]}, "/version": {"version": self._told["version"]}}.get(path, self._told)

    def adapted(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """An adapter comes or goes; vLLM has it below /v1."""
        assert path.startswith("/v1/") == (self.kind == "vllm"), path
        name = body["lora_name"]
        if "unload" in path:
            return (200, "Success") if self.adapters.pop(name, None) else (404, "no such adapter")
        if name in self.adapters:
            return 400, f"The lora adapter '{name}' has already been loaded."
        self.adapters[name] = PeftModel.from_pretrained(self._fresh(), body["lora_path"]).eval()
        return 200, "Success"

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of an answer."""
        self.asked.append(body)
        if self._events is not None:
            yield from self._events(body)
            return
        assert not set(body) - set(FIELDS[self.kind].split()) and body["stream"] is True
        yield from self._vllm(body) if self.kind == "vllm" else self._sglang(body)

    def _vllm(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert body["return_token_ids"] and body["ignore_eos"]
        schema = json.dumps(body["structured_outputs"]["json"]) if "structured_outputs" in body else ""
        top = body.get("logprobs")
        drawn = self._tokens(body, body["prompt"], body["max_tokens"], body.get("seed"), schema, top,
                             body.get("allowed_token_ids"), "" if body["model"] == "base" else body["model"])  # fmt: skip
        for id, logprob, likeliest, finish in drawn:
            choice = {"index": 0, "text": "", "token_ids": [id], "finish_reason": finish, "logprobs": None}
            if top is not None:
                best = {f"token_id:{id}": logprob} | {f"token_id:{one}": value for one, value in likeliest}
                choice["logprobs"] = {"tokens": [f"token_id:{id}"], "token_logprobs": [logprob], "top_logprobs": [best]}
            yield {"object": "text_completion", "choices": [choice]}
        yield {"object": "text_completion", "choices": [], "usage": {}}

    def _sglang(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        sampling = body["sampling_params"]
        assert not set(sampling) - set(SAMPLING.split()) and sampling["ignore_eos"]
        ids, chosen, best, top = [], [], [], body.get("top_logprobs_num") if body.get("return_logprob") else None
        drawn = self._tokens(sampling, body["input_ids"], sampling["max_new_tokens"], sampling.get("sampling_seed"),
                             sampling.get("json_schema", ""), top, None, body.get("lora_path", ""))  # fmt: skip
        for id, logprob, likeliest, finish in drawn:
            start = len(ids) if self._told.get("incremental_streaming_output") else 0
            ids.append(id)
            chosen.append([logprob, id, None])
            best.append([[value, one, None] for one, value in likeliest])
            meta: dict[str, Any] = {"finish_reason": {"type": finish} if finish else None}
            if top is not None:
                meta["output_token_logprobs"] = chosen[start:]
                if top:
                    meta["output_top_logprobs"] = best[start:]
            yield {"text": "", "output_ids": ids[start:], "meta_info": meta}

    def _tokens(self, numbers: dict[str, Any], prompt: list[int], most: int, seed: int | None, schema: str, top: int | None,
                allowed: list[int] | None, adapter: str) -> Iterator[Drawn]:  # fmt: skip
        """One token after the other, by hone's own rows."""
        stop_ids, warm = numbers["stop_token_ids"], numbers["temperature"] > 0
        settings = GenerationConfig(
            do_sample=warm, temperature=numbers["temperature"] if warm else 1.0, top_p=numbers["top_p"], max_new_tokens=most,
            top_k=max(0, numbers["top_k"]), eos_token_id=stop_ids,
        )  # fmt: skip
        size, bias = self._model.config.vocab_size, {int(id): value for id, value in numbers.get("logit_bias", {}).items()}
        asked = Steering((), False, numbers["presence_penalty"], numbers["frequency_penalty"], bias, num_top=top or 1)
        guide = Grammar(self._codec, schema, size) if schema else Openings([[id] for id in allowed], size) if allowed else None
        steer = Steer(asked, len(prompt), repetition_penalty=numbers["repetition_penalty"], guide=guide, name=str)
        row = Row(Asked(prompt), settings, seed=seed, steer=steer)
        module = self.adapters[adapter] if adapter else self._model
        cache, new = DynamicCache(), row.ids
        while not row.done:
            with self._turn, torch.inference_mode():
                row.draw(module(torch.tensor([new]), past_key_values=cache, use_cache=True).logits[:, -1])
            new = row.ids[-1:]
            token = steer.told.popleft()
            best = [(int(one.text), one.logprob) for one in token.top[: top or 0]]
            finish = None if not row.done else "stop" if row.ids[-1] in stop_ids else "length"
            yield row.ids[-1], token.logprob, best, finish

    def _fresh(self) -> PreTrainedModel:
        fresh = type(self._model)(self._model.config)
        fresh.load_state_dict(self._model.state_dict())
        return fresh


def _handler(server: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, json.dumps(server.got(self.path)))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if "lora_adapter" in self.path:
                self._say(*server.adapted(self.path, body))
                return
            assert self.path == {"vllm": "/v1/completions", "sglang": "/generate"}[server.kind]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for event in server.events(body):
                    self.wfile.write(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n")
                self.wfile.write(b"data: [DONE]\n\n")
            except (BrokenPipeError, ConnectionResetError):
                server.left += 1

        def _say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler
