"""What may be asked: the JSON of requests, field by field, in OpenAI's words and those that LLaMA-Factory and vLLM add.

Does not know the engine. A field that is not here is refused; one that is here is honoured, or refused where it asks for what
`refused` names.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Text = Annotated[str, Field(min_length=1)]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
_FUNCTION, _ID, _ADAPTER, _PLACE = r"^[a-zA-Z0-9_.-]{1,64}$", r"^[0-9]{1,9}$", r"^[^\s,=][^,=]{0,199}$", r"^[^\x00-\x1f]+$"
SPELLED = {
    _FUNCTION: "wanted 1 to 64 letters, digits, dots, dashes and underscores",
    _ID: "wanted a token's id, in digits",
    _ADAPTER: "wanted 1 to 200 characters without a comma or =, the first no space",
    _PLACE: "wanted a folder's name, without control characters",
}
"""What a text that does not match a pattern is told."""


class Asked(BaseModel):
    """A group of fields; unknown ones and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=(), frozen=True)


class TextPart(Asked):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class ImageUrl(Asked):
    """A picture by its URL: data:image/png;base64,... or https, or a path under the server's api_media_folder."""

    url: Text
    detail: Literal["auto", "high"] | None = Field(
        None, description="Pictures are read as finely as the model does: low is refused."
    )


class MediaUrl(Asked):
    """A sound or a film by its URL, as a picture's."""

    url: Text


class SoundData(Asked):
    """A sound in base64, with the form that its bytes are to be."""

    data: Text
    format: Literal["wav", "mp3", "flac", "ogg"]


class MediaPart(Asked):
    """A piece of a message's content that is no text. kind: of the house's parts."""

    kind: ClassVar[str]


class UrlPart(MediaPart):
    """One that is somewhere, in the field that its type names."""

    @property
    def url(self) -> str:
        """Where it is."""
        return getattr(self, self.type).url


class ImagePart(UrlPart):
    """A picture."""

    kind: ClassVar[str] = "image"
    type: Literal["image_url"]
    image_url: ImageUrl


class SoundPart(MediaPart):
    """A sound in the request itself."""

    kind: ClassVar[str] = "audio"
    type: Literal["input_audio"]
    input_audio: SoundData


class AudioPart(UrlPart):
    """A sound by its URL, as vLLM has it."""

    kind: ClassVar[str] = "audio"
    type: Literal["audio_url"]
    audio_url: MediaUrl


class VideoPart(UrlPart):
    """A film by its URL, as vLLM has it."""

    kind: ClassVar[str] = "video"
    type: Literal["video_url"]
    video_url: MediaUrl


Piece = Annotated[TextPart | ImagePart | SoundPart | AudioPart | VideoPart, Field(discriminator="type")]
PIECES = ("text", "image_url", "input_audio", "audio_url", "video_url")


class Function(Asked):
    """The function of a call, as a model made it; arguments: JSON."""

    name: Text
    arguments: str | dict[str, Any] = ""


class Call(Asked):
    """A call in the history."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: Function
    index: int | None = Field(None, description="What a stream numbered it with; says nothing here.")


class ChatMessage(Asked):
    """A message. Answers may be handed back as they were given: fields that are null ask for nothing."""

    role: Role
    content: str | list[Piece] | None = Field(
        None, description="Pictures, sounds and films are a user's, where the model takes them."
    )
    name: str | None = Field(None, description="The function that a tool's message comes from; refused in other messages.")
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = Field(None, description="What an assistant thought before it answered.")
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _known(cls, content: Any) -> Any:
        if isinstance(content, list):
            kinds = [part.get("type") for part in content if isinstance(part, dict) and "type" in part]
            if strange := [str(kind) for kind in kinds if kind not in PIECES]:
                raise ValueError(f"this server reads {', '.join(PIECES)}, and no {strange[0][:40]}")
        return content


class FunctionOffered(Asked):
    """A function that the model may call; parameters: a JSON schema of an object."""

    name: Annotated[str, Field(pattern=_FUNCTION)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = Field(None, description="Arguments are not held to the schema: true is refused.")


class Tool(Asked):
    """A tool on offer."""

    type: Literal["function"]
    function: FunctionOffered


class NamedFunction(Asked):
    """A function by name."""

    name: Text


class NamedTool(Asked):
    """The function that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Asked):
    """include_usage: a last chunk tells the tokens."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Asked):
    """The schema of an answer; name and description are told to nobody, strict or not it is enforced."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class Format(Asked):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Drawing(Asked):
    """What chats and completions have in common; a number left out is the server's own, from its YAML."""

    model: str | None = Field(None, description="One of /v1/models; the server's only one where left out.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, description="Answers; of seed s, the i-th is the one that seed s + i gives alone.")
    stop: Text | list[Text] | None = Field(None, description="Texts at which what is said ends, up to 16; not part of it.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="The same seed and request give the same answer.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token each time.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1 draw from all tokens.")
    do_sample: bool | None = Field(None, description="false is temperature 0.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logit_bias: dict[Annotated[str, Field(pattern=_ID)], Annotated[float, Field(ge=-100, le=100)]] | None = None
    max_tokens: int | None = Field(None, ge=1)
    user: str | None = Field(None, description="Whose request it is: for the caller's own records, kept nowhere.")


class ChatRequest(Drawing):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(None, description="false ends the answer with its first call.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Format | None = None
    store: Literal[False] | None = Field(None, description="Nothing is kept: true is refused.")
    service_tier: Literal["auto", "default"] | None = Field(None, description="There is one.")


class CompletionRequest(Drawing):
    """POST /v1/completions."""

    prompt: str | list[str] = Field(description="Texts to go on with. Words that spell a control token are read as text.")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(None, description="The prompt stands before each answer.")
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None


class LoadAdapter(Asked):
    """POST /v1/load_lora_adapter, as vLLM has it."""

    lora_name: Annotated[str, Field(pattern=_ADAPTER)] = Field(description="What requests write as model.")
    lora_path: Annotated[str, Field(pattern=_PLACE)] = Field(
        description="A folder under the server's api_adapter_folder, from there or from the root."
    )


class UnloadAdapter(Asked):
    """POST /v1/unload_lora_adapter, as vLLM has it."""

    lora_name: Text


class EmbeddingRequest(Asked):
    """POST /v1/embeddings."""

    model: str | None = None
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = Field(None, description="The vectors have the model's width.")
    user: str | None = None
    is_query: bool | None = Field(None, description="The texts are queries: what the model has before each is put there.")


class ScoreRequest(Asked):
    """POST /v1/score/evaluation, as LLaMA-Factory has it; messages: whole conversations as the chat format writes them."""

    model: str | None = None
    messages: list[str] = Field(min_length=1)
    max_length: int | None = Field(None, ge=1, description="Longer texts are cut there, in tokens.")
