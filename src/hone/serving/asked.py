"""Requests of the protocol in the engine's words: every field honoured here, or refused with its reason.

Does not know HTTP, nor how answers are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hone.chat.message import Conversation, Media
from hone.chat.openai import NO_MEDIA, conversation_from_openai
from hone.config.api import ApiConfig
from hone.config.generate import GenerateConfig
from hone.inference.base import Request, Steering
from hone.serving.protocol import ChatRequest, CompletionRequest, Drawing, Format, NamedTool
from hone.serving.refusal import Refusal

MAX_STOP = 16
"""Stop texts of one request."""


@dataclass(frozen=True)
class Terms:
    """What the server was started with. settings: of answers, where a request leaves them open."""

    settings: GenerateConfig
    limits: ApiConfig


def read_chat(fields: dict[str, Any]) -> ChatRequest:
    """The request that these fields are. Raises: Refusal where one of them is wrong."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as fault:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}" for one in fault.errors()[:8]]
        raise Refusal(400, "; ".join(told)) from fault


def chat_requests(asked: ChatRequest, terms: Terms, adapter: str = "", media: Mapping[str, Media] = NO_MEDIA) -> list[Request]:
    """One request a choice, of an adapter or the base. media: what has been read of the messages' media parts, by place.

    Raises: Refusal; DataError for messages that are no conversation.
    """
    if len(asked.messages) > terms.limits.api_max_messages:
        raise Refusal(400, f"{len(asked.messages)} messages; this server reads {terms.limits.api_max_messages}", param="messages")
    steering = _steering(asked, _num_top(asked), functions=_functions(asked), schema=_schema(asked))
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise Refusal(400, "max_tokens is the old word for max_completion_tokens: write one of them", param="max_tokens")
    settings = _settings(asked, asked.max_completion_tokens or asked.max_tokens, terms)
    return _choices(asked, [_conversation(asked, media)], settings, steering, terms, adapter)


def completion_requests(asked: CompletionRequest, terms: Terms, adapter: str = "") -> list[Request]:
    """One request a choice, those of a prompt behind each other. Raises: Refusal."""
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not prompts:
        raise Refusal(400, "prompt is an empty list", param="prompt")
    settings = _settings(asked, asked.max_tokens, terms)
    return _choices(asked, prompts, settings, _steering(asked, asked.logprobs), terms, adapter)


def _choices(
    asked: Drawing,
    texts: Sequence[Conversation | str],
    settings: GenerateConfig,
    steering: Steering,
    terms: Terms,
    adapter: str,
) -> list[Request]:
    number, most = asked.n or 1, terms.limits.api_max_choices
    if number * len(texts) > most:
        raise Refusal(400, f"{number * len(texts)} answers; this server gives {most} a request (api_max_choices)", param="n")
    seeds = [None if asked.seed is None else (asked.seed + index) % 2**63 for index in range(number)]
    return [Request(text, settings, seed, steering, adapter) for text in texts for seed in seeds]


def _conversation(asked: ChatRequest, media: Mapping[str, Media]) -> Conversation:
    messages = [message.model_dump(exclude_none=True, exclude={"annotations"}) for message in asked.messages]
    for index, message in enumerate(asked.messages):
        if message.name is not None and message.role not in ("tool", "function"):
            told = "no chat format writes who speaks: put the name into the text"
            raise Refusal(400, told, param=f"messages[{index}].name")
    for message, given in zip(messages, asked.messages, strict=True):
        message.setdefault("content", given.content)
    tools = [tool.model_dump(exclude_none=True) for tool in asked.tools or ()]
    return conversation_from_openai(messages, None if asked.tool_choice == "none" else tools, media=media)


def _settings(asked: Drawing, num_new: int | None, terms: Terms) -> GenerateConfig:
    most = terms.limits.api_max_tokens
    if num_new is not None and num_new > most:
        raise Refusal(400, f"{num_new} tokens; this server gives {most} an answer (api_max_tokens)", param="max_tokens")
    if asked.temperature and asked.do_sample is False:
        raise Refusal(400, "do_sample: false is temperature 0: write one of them", param="do_sample")
    given = {
        "max_new_tokens": num_new,
        "top_p": asked.top_p,
        "top_k": None if asked.top_k is None else max(asked.top_k, 0),
        "repetition_penalty": asked.repetition_penalty,
        "temperature": asked.temperature or None,
        "do_sample": False if asked.temperature == 0 else True if asked.temperature else asked.do_sample,
    }
    changed = terms.settings.model_copy(update={key: value for key, value in given.items() if value is not None})
    return changed.model_copy(update={"max_new_tokens": min(changed.max_new_tokens, most)})


def _steering(asked: Drawing, num_top: int | None, *, functions: tuple[str, ...] = (), schema: str = "") -> Steering:
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if len(stop) > MAX_STOP:
        raise Refusal(400, f"{len(stop)} stop texts; up to {MAX_STOP} are sought", param="stop")
    if asked.stream_options is not None and not asked.stream:
        raise Refusal(400, "stream_options without stream: true", param="stream_options")
    return Steering(
        stop=stop,
        one_call=isinstance(asked, ChatRequest) and asked.parallel_tool_calls is False,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias={int(token): bias for token, bias in (asked.logit_bias or {}).items()},
        num_top=num_top,
        functions=functions,
        json_schema=schema,
    )


def _num_top(asked: ChatRequest) -> int | None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Refusal(400, "top_logprobs without logprobs: true", param="top_logprobs")
    return (asked.top_logprobs or 0) if asked.logprobs else None


def _functions(asked: ChatRequest) -> tuple[str, ...]:
    """The functions of which one must be called; () where none must."""
    choice, known = asked.tool_choice, [tool.function.name for tool in asked.tools or ()]
    if choice is None or choice in ("none", "auto"):
        return ()
    if not known:
        raise Refusal(400, "tool_choice asks for a call, and there are no tools", param="tool_choice")
    if not isinstance(choice, NamedTool):
        return tuple(dict.fromkeys(known))
    if choice.function.name not in known:
        told = f"tool_choice names {choice.function.name}, and the tools are {', '.join(known)}"
        raise Refusal(400, told, param="tool_choice")
    return (choice.function.name,)


def _schema(asked: ChatRequest) -> str:
    """The JSON schema that the answer must follow; '' for none."""
    wanted = asked.response_format or Format(type="text")
    if (wanted.type == "json_schema") != (wanted.json_schema is not None):
        raise Refusal(400, "response_format: type json_schema and json_schema go together", param="response_format")
    if wanted.type == "text":
        return ""
    if asked.tools and asked.tool_choice != "none":
        told = "response_format holds the whole answer to JSON: leave tools out, or write tool_choice: none"
        raise Refusal(400, told, param="response_format")
    return json.dumps({"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_)
