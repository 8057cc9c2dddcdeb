"""What is answered: the JSON of answers, field by field, for the OpenAPI document and for those who read it.

Does not make answers; the tests hold what is made against these.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Finish = Literal["stop", "length", "tool_calls"]


class Shape(BaseModel):
    """A group of fields, and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Usage(Shape):
    """Tokens that were read and drawn; a prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CalledFunction(Shape):
    """arguments: JSON."""

    name: str
    arguments: str


class ToolCall(Shape):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnsweredMessage(Shape):
    """The next message; reasoning_content: what the model thought before it."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []


class TokenChoice(Shape):
    """A token that could have come. bytes: null for one that is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class DrawnToken(TokenChoice):
    """A token that came, and the likeliest at its place."""

    top_logprobs: list[TokenChoice]


class Logprobs(Shape):
    """Of each token, under the model itself."""

    content: list[DrawnToken]
    refusal: None


class ChatAnswer(Shape):
    """One of n answers."""

    index: int
    message: AnsweredMessage
    logprobs: Logprobs | None
    finish_reason: Finish


class ChatCompletion(Shape):
    """POST /v1/chat/completions. With stream: true server-sent events, whose chunks have a `delta` in the message's place."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatAnswer]
    usage: Usage


class TextLogprobs(Shape):
    """Of each token; text_offset: the characters before it."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextAnswer(Shape):
    """One of n answers to a prompt; those of a prompt stand behind each other."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Shape):
    """POST /v1/completions. With stream: true server-sent events of the same shape."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextAnswer]
    usage: Usage


class Embedding(Shape):
    """A text's vector; in base64 four bytes a number, lowest first."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class ReadTokens(Shape):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Shape):
    """POST /v1/embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: ReadTokens


class Scores(Shape):
    """POST /v1/score/evaluation: a number for each text, in order."""

    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]


class Card(Shape):
    """A model; created: when the server started, in seconds since 1970."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None = Field(None, description="The model that an adapter stands on.")


class LetGo(Shape):
    """An adapter that new requests can no longer ask for."""

    id: str
    object: Literal["model"]
    deleted: Literal[True]


class Cards(Shape):
    """GET /v1/models."""

    object: Literal["list"]
    data: list[Card]


class Fault(Shape):
    """Why there is no answer; param: the field that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refused(Shape):
    """Every answer with a status of 400 or more."""

    error: Fault = Field(description="What OpenAI's clients read.")


def documented(shape: type[Shape], errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """The answers of a path for its OpenAPI document. errors: status and what it means."""
    told = {status: {"model": Refused, "description": meaning} for status, meaning in errors.items()}
    return {200: {"model": shape, "description": (shape.__doc__ or "").strip()}, **told}
