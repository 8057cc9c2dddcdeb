"""SglangClient: SGLang's own protocol, /generate with token ids in and out.

Does not know conversations. Read from sglang/srt (managers/io_struct, tokenizer_manager, sampling) of SGLang 0.5; not yet run
against the server, which needs a GPU. Where SGLang means something else by a word, the request is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from hone.errors import ModelError
from hone.inference.base import Request
from hone.inference.servers.ask import Ask, Line, Said, require_ending

ORIGINAL = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
"""The variable by which SGLang tells log-probs before temperature."""
_ALLOW = 1e4
"""Added to the logits of the only tokens that may be drawn: SGLang has no list of allowed tokens."""


class SglangClient:
    """A Client. ours: hone has started the server, with ORIGINAL."""

    def __init__(self, url: str, key: str = "", *, ours: bool = False):
        self._line, self._ours = Line("SGLang", url, key), ours
        self.limit = self._line.get("/v1/models")["data"][0]["max_model_len"]
        told = self._line.get("/get_server_info")
        self._in_pieces = bool(told.get("incremental_streaming_output") or told.get("stream_output"))
        self._keeps_seeds = bool(told.get("enable_deterministic_inference"))

    def refuse(self, request: Request) -> None:
        """As Client says."""
        settings, steering = request.settings, request.steering
        if request.seed is not None and settings.do_sample and not self._keeps_seeds:
            raise ModelError(
                "seed: SGLang draws by seeds with deterministic inference alone; write sglang_config: "
                "{enable_deterministic_inference: true}, or ask without a seed"
            )
        if settings.repetition_penalty != 1:
            raise ModelError("repetition_penalty: SGLang's is of the answer's tokens alone, and hone's of the prompt's too")
        if steering.num_top is None:
            return
        if steering.presence_penalty or steering.frequency_penalty or steering.logit_bias or steering.json_schema:
            raise ModelError("logprobs: SGLang tells those behind penalties, bias and schema, and not the model's own")
        if not self._ours and settings.do_sample and settings.temperature != 1:
            raise ModelError(
                "logprobs: a server that hone did not start may tell those behind the temperature; ask with temperature 1"
            )

    def draw(self, ask: Ask) -> Iterator[Said]:
        """As Client says."""
        num, last, reason = 0, None, None
        with closing(self._line.events("/generate", self._body(ask))) as events:
            for event in events:
                for said in self._new(event, num, ask):
                    num, last = num + 1, said.id
                    yield said
                finish = event["meta_info"].get("finish_reason")
                if finish and finish["type"] == "abort":
                    raise self._line.wrong(f"it stopped: {finish.get('message')}")
                reason = finish["type"] if finish else reason
        require_ending(self._line, ask, num, last, reason)

    def load_adapter(self, name: str, folder: Path) -> None:
        """As Client says."""
        self._line.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})

    def unload_adapter(self, name: str) -> None:
        """As Client says."""
        self._line.post("/unload_lora_adapter", {"lora_name": name})

    def _new(self, event: dict[str, Any], num: int, ask: Ask) -> Iterator[Said]:
        """Tokens of an event behind the `num` before it: events hold all tokens so far, unless the server streams in pieces."""
        start, told = 0 if self._in_pieces else num, event["meta_info"]
        ids = event["output_ids"]
        for place in range(start, len(ids)):
            if ask.steering.num_top is None:
                yield Said(ids[place])
                continue
            top = told["output_top_logprobs"][place] if ask.steering.num_top else ()
            best = tuple((id, value) for value, id, *_ in top)
            yield Said(ids[place], told["output_token_logprobs"][place][0], best)

    def _body(self, ask: Ask) -> dict[str, Any]:
        settings, steering = ask.settings, ask.steering
        bias = {str(id): value for id, value in steering.logit_bias.items()}
        for id in ask.allowed:
            bias[str(id)] = bias.get(str(id), 0.0) + _ALLOW
        sampling: dict[str, Any] = {
            "max_new_tokens": ask.num_new,
            "temperature": settings.temperature if settings.do_sample else 0.0,
            "top_p": settings.top_p if settings.do_sample else 1.0,
            "top_k": (settings.top_k or -1) if settings.do_sample else -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": steering.presence_penalty,
            "frequency_penalty": steering.frequency_penalty,
            "stop_token_ids": list(ask.stop_ids),
            "ignore_eos": True,  # the codec's stop tokens and no others
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        if ask.seed is not None and self._keeps_seeds:
            sampling["sampling_seed"] = ask.seed
        if bias:
            sampling["logit_bias"] = bias
        if ask.json_schema:
            sampling["json_schema"] = ask.json_schema
        body: dict[str, Any] = {"input_ids": ask.ids, "sampling_params": sampling, "stream": True}
        if ask.adapter:
            body["lora_path"] = ask.adapter
        if steering.num_top is not None:
            body |= {"return_logprob": True, "logprob_start_len": -1, "top_logprobs_num": steering.num_top}
        return body
