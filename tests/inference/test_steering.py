"""What a request's steering does to logits, by hand; and guides of what may be drawn."""

from __future__ import annotations

import json

import pytest
import torch

from hone.errors import ModelError
from hone.inference.base import Steering
from hone.inference.grammar import Grammar
from hone.inference.steering import Behind, Openings, Steer


def steered(steering: Steering, ids: list[int], num_prompt: int, logits: list[float], **options) -> list[float]:
    return Steer(steering, num_prompt, **options)(torch.tensor([ids]), torch.tensor([logits]))[0].tolist()


def test_penalties_count_the_answers_own_tokens():
    """Prompt 0 0 1, answer 2 2 3: token 2 was drawn twice, 3 once, 0 and 1 never."""
    asked = Steering(presence_penalty=0.5, frequency_penalty=0.25)
    assert steered(asked, [0, 0, 1, 2, 2, 3], 3, [4.0, 3.0, 2.0, 1.0]) == [4.0, 3.0, 2.0 - 0.5 - 2 * 0.25, 1.0 - 0.5 - 0.25]
    assert steered(Steering(presence_penalty=-1), [0, 0], 1, [1.0, 1.0]) == [2.0, 1.0]
    assert steered(asked, [0, 0, 1], 3, [4.0, 3.0]) == [4.0, 3.0]


def test_a_repetition_penalty_is_a_factor_on_the_prompts_tokens_too():
    assert steered(Steering(), [0, 1], 1, [4.0, -4.0, 3.0], repetition_penalty=2.0) == [2.0, -8.0, 3.0]


def test_a_bias_is_added_and_an_id_that_is_none_is_refused():
    assert steered(Steering(logit_bias={2: -100, 0: 1.5}), [0], 1, [1.0, 2.0, 3.0]) == [2.5, 2.0, -97.0]
    with pytest.raises(ModelError, match="no token 3; the model's ids end at 2"):
        steered(Steering(logit_bias={3: 1}), [0], 1, [1.0, 2.0, 3.0])


def test_log_probs_are_told_before_anything_is_changed():
    steer = Steer(Steering(num_top=2, logit_bias={0: 50}), 1, name="abc".__getitem__)
    steer(torch.tensor([[0]]), torch.tensor([[1.0, 3.0, 2.0]]))
    steer.note(0)
    expected = torch.tensor([1.0, 3.0, 2.0]).log_softmax(0).tolist()
    (token,) = steer.told
    assert token.text == "a" and token.logprob == pytest.approx(expected[0])
    assert [(one.text, one.logprob) for one in token.top] == [
        ("b", pytest.approx(expected[1])),
        ("c", pytest.approx(expected[2])),
    ]


def test_openings_leave_the_choice_between_them_and_then_everything():
    steer = Steer(Steering(), 1, guide=Openings([[1, 2, 3], [1, 4]], 6))
    allowed = []
    for ids in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
        scores = steer(torch.tensor([ids]), torch.zeros(1, 6))[0]
        allowed.append(torch.isfinite(scores).nonzero().flatten().tolist())
    assert allowed == [[1], [2, 4], [3], [0, 1, 2, 3, 4, 5]]


def test_a_grammar_lets_through_what_the_schema_allows_and_nothing_else(codec):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, "\u00e4"]}}, "required": ["a"], "additionalProperties": False}
    size, stop = len(codec.tokenizer), codec.stop_ids[0]
    for text, fits in (('{"a": 1}', True), (' {"a":"\u00e4"}', True), ('{"a": 2}', False), ('{"b": 1}', False), ("[1]", False)):
        grammar, through = Grammar(codec, json.dumps(schema), size), True
        for token in [*codec.tokenizer.encode(text, add_special_tokens=False), stop]:
            through = through and bool(grammar.allowed()[token])
            if through:
                grammar.take(token)
        assert through == fits, text
    assert not Grammar(codec, json.dumps(schema), size).allowed()[stop], "an empty answer is no JSON"
    for wrong in ({"type": "nonsense"}, {"type": "string", "pattern": "("}):
        with pytest.raises(ModelError, match="cannot be enforced"):
            Grammar(codec, json.dumps(wrong), size).allowed()


def test_behind_a_thought_the_grammar_begins():
    guide = Behind(Openings([[5]], 9), lambda ids: ids[-1] == 3)
    allowed = []
    for token in (1, 3, 5, 1):
        allowed.append(guide.allowed())
        guide.take(token)
    assert allowed[0] is None and allowed[1] is None and allowed[2].nonzero().flatten().tolist() == [5] and allowed[3] is None
