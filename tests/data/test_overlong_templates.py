"""Cutting with every row of the table: what is left keeps the format's own tokens, each answer's header and its stop token.

Does not test what is cut first; test_overlong does, with a codec that can be checked by eye.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import takewhile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult, message
from hone.chat.probes import TOOL
from hone.chat.table import rows
from hone.data.columns import RowError
from hone.data.overlong import fit
from hone.data.sample import Dialog
from hone.errors import TemplateError
from tests.chat.conftest import made_codec, made_tokenizer  # noqa: F401

POLICIES = ("truncate_left", "truncate_right", "split", "drop")
words = st.lists(
    st.sampled_from(["rain ", "Paris", " is\n", "\u4f60\u597d", "<|im_end|>", "  ", "[/INST]", ": ", "12"]), max_size=14
)
texts = words.map(lambda some: "".join(some) or "a")


@st.composite
def turns(draw) -> list[Message]:
    """A question and its answer, perhaps with a thought, perhaps with a call and its result before it."""
    said = [message("user", draw(texts))]
    if draw(st.integers(0, 3)) == 0:
        call = ToolCall("weather", {"city": draw(texts), "days": 3}, "callid001")
        said += [Message("assistant", (call,)), Message("tool", (ToolResult(draw(texts), "weather", "callid001"),))]
    thought = (Think(draw(texts)),) if draw(st.integers(0, 2)) == 0 else ()
    return [*said, Message("assistant", (*thought, Text(draw(texts))))]


@st.composite
def conversations(draw) -> Conversation:
    """One to four turns, with and without a system message; the tools on offer where one is called."""
    head = [message("system", draw(texts))] if draw(st.booleans()) else []
    said = [one for turn in draw(st.lists(turns(), min_size=1, max_size=4)) for one in turn]
    calls = any(isinstance(part, ToolCall) for one in said for part in one.parts)
    return Conversation((*head, *said), (TOOL,) if calls else ())


@pytest.mark.parametrize("name", rows())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    talk=conversations(), share=st.floats(0.1, 1.1), policy=st.sampled_from(POLICIES), learn=st.sampled_from(["answers", "last"])
)
def test_every_answer_that_is_left_has_its_header_and_its_stop_token(name, made_codec, talk, share, policy, learn):  # noqa: F811
    codec = made_codec(name)
    try:
        [whole] = codec.encode([talk], learn)
    except TemplateError:
        return  # not every format has a place for everything
    cutoff = max(int(len(whole) * share), 8)
    encode = lambda sample: Example((codec.encode([sample.conversation], learn)[0],))  # noqa: E731
    try:
        parts = fit(Dialog(talk), Example((whole,)), cutoff_len=cutoff, overlong=policy, encode=encode).sequences
    except RowError as error:
        assert error.reason in ("nothing to learn", "cannot be cut to cutoff_len")
        return
    assert parts or policy == "drop"
    for part in parts:
        assert len(part) <= cutoff
        assert policy != "drop" or part is whole
        check(codec, part, talk, learn)


def check(codec: Codec, part: Encoded, talk: Conversation, learn: str) -> None:
    """The promises on one sequence that was cut; which turns were left follows from the format's own tokens, not always alone."""
    assert part.num_trained
    found = [faults(codec, part, kept, full) for kept, full in uncut(codec, talk, learn) if own_tokens(full) == own_tokens(part)]
    assert found, f"own tokens are missing: {codec.tokenizer.decode(part.ids)}"
    assert [] in found, (found[0], codec.tokenizer.decode(part.ids))


def faults(codec: Codec, part: Encoded, kept: Conversation, full: Encoded) -> list[str]:
    """What is wrong with a sequence that is left of `kept`, which is `full` where nothing is cut."""
    wrong = [] if [one[2] for one in answers(part)] == [one[2] for one in answers(full)] else ["an answer is not learned"]
    for start, end, index in answers(part):
        before, said = codec.tokenizer.decode(part.ids[:start]), codec.tokenizer.decode(part.ids[start:end])
        if not before.endswith(header(codec, kept.messages[index - 1].role)):
            wrong.append(f"no header before {said!r}: {before[-60:]!r}")
        if part.ids[end - 1] not in codec.stop_ids:
            wrong.append(f"no stop token after {said!r}")
        if calls(kept.messages[index]) != calls(codec.parse(part.ids[start:end].tolist())):
            wrong.append(f"another call than was written: {said!r}")
    return wrong


def calls(one: Message) -> list[tuple[str, dict]]:
    """Names and arguments."""
    return [(part.name, dict(part.arguments)) for part in one.parts if isinstance(part, ToolCall)]


def uncut(codec: Codec, talk: Conversation, learn: str) -> Iterator[tuple[Conversation, Encoded]]:
    """Every run of whole turns that can be left, longest first, and as it is encoded."""
    roles = [one.role for one in talk.messages]
    head = len(list(takewhile(lambda role: role != "user", roles)))
    starts = [*(i for i, role in enumerate(roles) if role == "user"), len(roles)]
    for length in range(len(starts) - 1, 0, -1):
        for first in range(len(starts) - length):
            said = talk.messages[:head] + talk.messages[starts[first] : starts[first + length]]
            kept = Conversation(said, talk.tools)
            yield kept, codec.encode([kept], learn)[0]


def own_tokens(encoded: Encoded) -> list[int]:
    """The ids of what nobody wrote."""
    own = [piece for piece in encoded.pieces if piece.kind == "control"]
    return [token for piece in own for token in encoded.ids[piece.start : piece.end].tolist()]


def answers(encoded: Encoded) -> list[tuple[int, int, int]]:
    """[start, end) of every run of learned tokens of one message, and the message."""
    found: list[tuple[int, int, int]] = []
    for piece in encoded.pieces:
        for place in range(piece.start, piece.end):
            if encoded.labels[place] == IGNORE:
                continue
            if found and found[-1][1:] == (place, piece.message):
                found[-1] = (found[-1][0], place + 1, piece.message)
            else:
                found.append((place, place + 1, piece.message))
    return found


@cache
def header(codec: Codec, before: str) -> str:
    """What a prompt writes itself after what a message of that role says."""
    said = [message("user", "x")]
    if before == "tool":
        call = ToolCall("weather", {"city": "Oslo"}, "callid001")
        said += [Message("assistant", (call,)), Message("tool", (ToolResult("x", "weather", "callid001"),))]
    segments = codec.template.render(Conversation(tuple(said)), prompt=True).segments
    return "".join(one.text for one in reversed(list(takewhile(lambda one: one.kind == "control", reversed(segments)))))
