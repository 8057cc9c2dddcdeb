"""OwnTemplate: the Jinja template a tokenizer carries; what is learned of it is found by comparing renderings.

Does not know tokens beyond their spelling, nor any single template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from jinja2 import TemplateSyntaxError

from hone.chat.dialects.table import find_dialect
from hone.chat.locate import Span, locate
from hone.chat.marks import Generation, Rendered, Segment, environment, run, set_aside, to_json
from hone.chat.message import MEDIA, Conversation, Media, Message, Text, Think, ToolCall, message
from hone.chat.openai import message_to_openai
from hone.chat.reading import Reading
from hone.chat.view import refuse_media, split_thoughts
from hone.config.chat import ChatConfig
from hone.errors import TemplateError

_OF_THOUGHTS = ("enable_thinking", "preserve_thinking")

_PROBE = Conversation((message("user", "Zq1"), message("assistant", "Zq2")))


class _Unmarked(Generation):
    """The generation tag without effect: spans are found by comparing renderings, whatever the template marks."""

    def _marked(self, caller: Any) -> str:
        return caller()


@dataclass(frozen=True)
class OwnTemplate:
    """text: the Jinja source; names: special tokens by role ("bos_token"); controls: spellings of control tokens."""

    text: str
    names: Mapping[str, Any]
    controls: frozenset[str]
    settings: ChatConfig
    eos: str
    name: str = "of the tokenizer"
    passage_end: str = ""

    @classmethod
    def load(cls, chat: ChatConfig, tokenizer: Any, controls: frozenset[str], family: str = "") -> OwnTemplate:
        """Raises TemplateError where the tokenizer carries none; it names `family`, the template known of the family."""
        text = tokenizer.chat_template
        if isinstance(text, dict):
            text = text.get("default")
        if not text:
            known = f"{family}, the format of this model's family" if family else "NAME"
            raise TemplateError(
                f"the tokenizer carries no chat template and the settings name none; write template: {known} (for a base model "
                "also template: empty, or template: default for a format made of plain words)"
            )
        return cls(text, dict(tokenizer.special_tokens_map), controls, chat, tokenizer.eos_token or "")

    def asked_to_think(self, enable: bool) -> OwnTemplate:
        """See Template."""
        return replace(self, settings=self.settings.model_copy(update={"enable_thinking": enable}))

    @cached_property
    def source(self) -> str:
        """The Jinja text, the settings, and the date where the template writes it."""
        dated = datetime.now().strftime("%Y-%m-%d") if "strftime_now" in self.text else ""
        told = repr(self._told | {"default_system": self.settings.default_system, "tool_format": self.settings.tool_format})
        return "\n".join([self.text, told, repr(sorted(self.names.items(), key=str)), dated])

    @property
    def media(self) -> frozenset[str]:
        """The kinds of media that the template's text speaks of."""
        return frozenset(kind for kind in MEDIA if kind in self.text)

    @property
    def _told(self) -> dict[str, bool]:
        """What the template is told of thoughts: what the settings say, nothing where they leave a key out (or say null)."""
        said = {name: getattr(self.settings, name) for name in _OF_THOUGHTS if name in self.settings.model_fields_set}
        return {name: value for name, value in said.items() if value is not None}

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """The token after an answer, and eos."""
        found = self._after_answer[1]
        return tuple(dict.fromkeys(word for word in (found, self.eos) if word))

    @cached_property
    def reading(self) -> Reading:
        """Lead and tail as a probe shows them, the dialect by the template's markers."""
        lead, _, tail = self._after_answer
        opens = re.search(r"<think>\s*$", self._text(_PROBE.messages[:1], True)) is not None
        dialect = find_dialect(self.settings.tool_format or _dialect(self.text))
        return Reading(dialect, lead if lead.isspace() else "", tail, opens, "<think>" not in self.controls)

    def render(self, conversation: Conversation, *, prompt: bool = False) -> Rendered:
        """Raises TemplateError where the template refuses, or where what was written cannot be kept apart from control text."""
        said = self._prepared(conversation)
        shift = len(said.messages) - len(conversation.messages)
        text = self._text(said.messages, prompt, said.tools)
        spans = locate(text, said, lambda masked: self._of_stand_ins(masked, prompt), self.controls, self.name)
        answers = self._answers(text, said, prompt)
        return set_aside(list(_segments(text, spans, answers, said, self._stop_pattern, shift)))

    def rewritten(self, conversation: Conversation) -> frozenset[int]:
        """Answers that the template writes otherwise once something follows (thoughts dropped, a system prompt that moves)."""
        answers = [index for index, one in enumerate(conversation.messages) if one.role == "assistant"]
        said = self._prepared(conversation)
        shift = len(said.messages) - len(conversation.messages)
        found = self._answers(self._text(said.messages, False, said.tools), said, False)
        return frozenset(index for index in answers if index + shift not in found)

    def plain(self, conversation: Conversation, prompt: bool) -> str:
        """The text alone; works where nothing could be learned. Raises TemplateError where the template leaves something out."""
        said = self._prepared(conversation)
        text = self._text(said.messages, prompt, said.tools)
        locate(text, said, lambda masked: self._text(masked.messages, prompt, masked.tools), frozenset(), self.name)
        return text

    def _prepared(self, conversation: Conversation) -> Conversation:
        """Thoughts in parts where the template asks for them so, and the settings' system prompt."""
        made = split_thoughts(conversation) if self._splits_thoughts else _inlined(conversation)
        has_system = made.messages and made.messages[0].role == "system"
        if self.settings.default_system and not has_system:
            made = replace(made, messages=(message("system", self.settings.default_system), *made.messages))
        return made

    def _answers(self, text: str, said: Conversation, prompt: bool) -> dict[int, tuple[int, int]]:
        """Where each answer is said, [start, end) with its stop token; those not said in `text` as they would be sampled miss.

        Those in a prompt count too: tokens are cut where an answer starts, in what is asked as in what is learned.
        """
        found: dict[int, tuple[int, int]] = {}
        for index, one in enumerate(said.messages):
            if one.role != "assistant":
                continue
            last = index == len(said.messages) - 1 and not prompt
            head = self._text(said.messages[:index], True, said.tools)
            upto = text if last else self._text(said.messages[: index + 1], False, said.tools)
            stop = self._end(upto, len(head), one) if upto.startswith(head) else -1
            if stop >= 0 and text.startswith(upto[:stop]):
                found[index] = (len(head), stop)
            elif last:
                self._refuse(head, upto)
        return found

    def _end(self, text: str, start: int, one: Message) -> int:
        """Behind the first stop token among the control tokens that `text` ends with, and those right behind it; behind the last
        control token where none is a stop token (a call whose results the same turn goes on with); -1 for none after `start`.

        Some templates (Cohere's) write the header of the next answer whether or not they are asked for it, some (Phi-3's) end
        the whole text with another token, which is no part of the answer `one`.
        """
        ends: list[re.Match[str]] = []
        edge = len(text.rstrip())
        for found in reversed(list(self._stop_pattern.finditer(text, start))):
            if found.end() != edge:
                break
            ends.insert(0, found)
            edge = len(text[: found.start()].rstrip())
        stops = [found for found in ends if found.group() in self.stop]
        if any(word in part.text for part in one.parts if isinstance(part, Text | Think) for word in self.stop):
            stops = stops[-1:]  # the others may be what was said
        end = stops[0].end() if stops else ends[-1].end() if ends else -1
        for found in stops[1:]:
            end = found.end() if found.start() == end else end
        return end

    def _refuse(self, head: str, upto: str) -> None:
        if upto.startswith(head):
            raise TemplateError(
                f"the tokenizer's own chat template ends answers with {upto[-20:]!r}, which is no token to stop at; "
                "name a template instead (template: NAME)"
            )
        at = next((i for i, (a, b) in enumerate(zip(head, upto, strict=False)) if a != b), min(len(head), len(upto)))
        raise TemplateError(
            "the tokenizer's own chat template is not prefix-stable: with the answer it renders something else than the prompt "
            f"that asks for it (the prompt goes on with {head[at : at + 40]!r}, the full text with {upto[at : at + 40]!r}), so "
            "training would not start where sampling starts; name a template instead (template: NAME)"
        )

    @cached_property
    def _splits_thoughts(self) -> bool:
        """Whether a thought is told from the words around it: its tags are the template's own, or tokens of the tokenizer."""
        return "reasoning_content" in self.text or "<think>" in self.text or "<think>" in self.controls

    @cached_property
    def _after_answer(self) -> tuple[str, str, str]:
        """Text before, stop token, and text between answer and stop token in a probe; '' where the template has no such thing."""
        try:
            head, full = self._text(_PROBE.messages[:1], True), self._text(_PROBE.messages, False)
        except TemplateError:
            return "", "", ""
        before, _, after = full.rpartition("Zq2")
        stop = self._stop_pattern.search(after)
        lead = before[len(head) :] if before.startswith(head) else ""
        return (lead, stop.group(), after[: stop.start()]) if stop else (lead, "", "")

    @cached_property
    def _stop_pattern(self) -> re.Pattern[str]:
        names = sorted(self.controls, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def _of_stand_ins(self, masked: Conversation, prompt: bool) -> str:
        """The rendering of a conversation whose words are stand-ins: of many conversations of one form it is one."""
        calls = any(isinstance(part, ToolCall) for one in masked.messages for part in one.parts)
        if masked.tools or calls or "strftime_now" in self.text:
            return self._text(masked.messages, prompt, masked.tools)
        return self._kept(masked.messages, prompt)

    @cached_property
    def _kept(self) -> Callable[[tuple[Message, ...], bool], str]:
        return lru_cache(maxsize=1024)(self._text)

    def _text(self, messages: tuple[Message, ...], prompt: bool, tools: tuple = ()) -> str:
        if "reasoning_content" not in self.text:
            messages = _inlined(Conversation(messages)).messages
        items = [item for one in messages for item in _items(one)]
        names = {**self.names, **self._told, "add_generation_prompt": prompt, "documents": None}
        try:
            return run(self._jinja, self.name, messages=items, tools=list(tools) or None, **names)
        except TemplateError as error:
            # Some templates (DeepSeek's) join arguments to text and so want them as JSON text, as OpenAI's API has them.
            if not isinstance(error.__cause__, TypeError) or not any("tool_calls" in item for item in items):
                raise
            return run(
                self._jinja, self.name, messages=list(map(_with_text_arguments, items)), tools=list(tools) or None, **names
            )

    @cached_property
    def _jinja(self) -> Any:
        made = environment()
        made.add_extension(_Unmarked)
        made.extensions.pop(Generation.identifier)
        made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            compiled = made.from_string(self.text)
        except TemplateSyntaxError as error:
            raise TemplateError(f"the tokenizer's own chat template is not valid Jinja: {error}") from error
        compiled.globals = dict(compiled.globals)  # it is copied for each rendering, and as Jinja makes it that is slow
        return compiled


def _items(one: Message) -> list[dict[str, Any]]:
    """OpenAI's dicts; of a message with media, its parts in order, as Hugging Face's templates read them."""
    if not one.media:
        return message_to_openai(one)
    if one.role in ("assistant", "tool"):
        refuse_media(one)
    shown = [part for part in one.parts if isinstance(part, Text | Media)]
    content = [{"type": "text", "text": part.text} if isinstance(part, Text) else {"type": part.kind} for part in shown]
    return [{"role": one.role, "content": content}]


def _with_text_arguments(item: dict[str, Any]) -> dict[str, Any]:
    calls = [
        call | {"function": call["function"] | {"arguments": to_json(call["function"]["arguments"])}}
        for call in item.get("tool_calls", ())
    ]
    return item | ({"tool_calls": calls} if calls else {})


def _inlined(conversation: Conversation) -> Conversation:
    """Thoughts as ordinary words, for templates that know none."""

    def changed(one: Message) -> Message:
        thought = "".join(part.text for part in one.parts if isinstance(part, Think))
        if not thought:
            return one
        rest = tuple(part for part in one.parts if not isinstance(part, Think))
        return replace(one, parts=(Text(f"<think>\n{thought}\n</think>\n\n"), *rest))

    return replace(conversation, messages=tuple(map(changed, conversation.messages)))


_MARKS = (  # a dialect, and words that all stand in a template that speaks it; the first counts
    ("gemma4", "<|tool_call>call:"),
    ("minimax2", "<minimax:tool_call>"),
    ("seed_oss", "<seed:tool_call>"),
    ("mimo_v2", "<parameter=", "preserved exactly as-is"),
    ("qwen3_5", "<parameter="),
    ("hy3", "<tool_sep>"),
    ("gpt_oss", "<|channel|>commentary", "namespace"),
    ("glm4_7", "</arg_key><arg_value>"),
    ("glm4_moe", "<arg_value>"),
    ("lfm2", "<|tool_list_start|>"),
    ("minicpm4", "<|tool_call_start|>", "```python"),
    ("lfm2", "<|tool_call_start|>"),
    ("internlm2", "<|action_start|><|plugin|>"),
    ("youtu", "<|begin_of_tool_description|>"),
    ("hunyuan", "<tool_calls>["),
    ("kimi", "<|tool_calls_section_begin|>"),
    ("deepseek3", "tool\u2581calls\u2581begin", "```json"),
    ("deepseek3_1", "tool\u2581calls\u2581begin"),
    ("mistral_v11", "[CALL_ID]"),
    ("mistral_v13", "[ARGS]"),
    ("mistral_v7", "[TOOL_CALLS][", "[TOOL_CONTENT]"),
    ("mistral_tekken", "[TOOL_CALLS]["),
    ("mistral", "[TOOL_CALLS]"),
    ("command_a", "<|START_ACTION|>"),
    ("command_r", "Action:\\n```json", "tool_name"),
    ("qwen", "<tool_call>"),
    ("granite3", "<|tool_call|>"),
    ("phi4_mini", "<|/tool|>"),
    ("llama3", '"parameters": '),
)


def _dialect(source: str) -> str:
    return next((name for name, *words in _MARKS if all(word in source for word in words)), "default")


def _segments(
    text: str, spans: list[Span], answers: dict[int, tuple[int, int]], said: Conversation, stops: re.Pattern[str], shift: int
) -> Iterator[Segment]:
    """The text cut at contents and answers. Control text before a content is its message's header; a first control token behind
    a content ends that content's message."""
    cuts = {0, len(text)}
    owner: list[tuple[int, int, int]] = []
    for span in spans:
        stop = stops.match(text, span.end)
        end = stop.end() if stop else span.end
        owner.append((span.start, end, span.message))
        cuts |= {span.start, span.end, end}
    for start, end in answers.values():
        cuts |= {start, end}
    places = sorted(cuts)
    for start, end in pairwise(places):
        answer = next((i for i, (a, b) in answers.items() if a <= start and end <= b), None)
        own = next((m for a, b, m in owner if a <= start and end <= b), None)
        kind = "content" if any(s.start <= start and end <= s.end for s in spans) else "control"
        following = next((m for a, _, m in owner if a >= end), owner[-1][2] if owner else -1)
        index = answer if answer is not None else own if own is not None else following
        one = said.messages[index] if index >= 0 else None
        spoken = answer is not None or (own is not None and one is not None and one.role != "assistant")
        train = one.train if one is not None else None
        trained = spoken and (train if train is not None else answer is not None)
        yield Segment(text[start:end], kind, index - shift, spoken, trained, answer is not None)
