"""A stand-in for a vLLM server: the same routes and shapes, answers by transformers, adapters by peft.

Does not know who asks. Answers are those of EmbeddedSampler for the same seeds, so that two runs can be compared.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Prompt, Sampling


class StandInVllm:
    """`with StandInVllm(base) as server: server.url`; loaded: names of adapters now; asked: bodies of all completions.

    spoil: changes what is answered to a completion.
    """

    def __init__(self, base: Path, spoil: Any = lambda choice: choice):
        self._base, self._spoil, self._turn = base, spoil, threading.Lock()
        self.loaded: dict[str, PeftModel] = {}
        self.asked: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> StandInVllm:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body of the reply."""
        with self._turn:
            if path == "/v1/load_lora_adapter":
                base = AutoModelForCausalLM.from_pretrained(self._base)
                self.loaded[body["lora_name"]] = PeftModel.from_pretrained(base, body["lora_path"]).eval()
                return 200, b"Success"
            if path == "/v1/unload_lora_adapter":
                return (200, b"Success") if self.loaded.pop(body["lora_name"], None) else (404, b"no such adapter")
            self.asked.append(body)
            choice = self._spoil(_choice(self.loaded[body["model"]], body))
            return 200, json.dumps({"object": "text_completion", "choices": [choice]}).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, said = outer.answer(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _choice(module: PeftModel, body: dict[str, Any]) -> dict[str, Any]:
    assert body["ignore_eos"] and body["return_token_ids"] and body["top_p"] == 1
    sampling = Sampling(body["max_tokens"], tuple(body["stop_token_ids"]), 0, body["temperature"])
    (drawn,) = EmbeddedSampler(module.get_base_model()).draw([Prompt(np.array(body["prompt"]), body["seed"])], sampling)
    return {
        "token_ids": drawn.ids.tolist(),
        "logprobs": {"token_logprobs": drawn.logprobs.tolist()},
        "finish_reason": "stop" if drawn.finished else "length",
    }
