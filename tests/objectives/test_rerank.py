"""Both losses of a reranker by hand, whichever way a query's texts are laid out; how a query and a text become one.

Does not train.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hone.chat.codec import build_codec
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.chat.query_text import write_pair
from hone.config.chat import ChatConfig
from hone.config.objective import Rerank as RerankConfig
from hone.data.batch import pack, pad
from hone.data.build import build_data
from hone.data.columns import RowError
from hone.data.sample import Match
from hone.errors import DataError
from hone.models.policy import Policy
from hone.models.score_head import ScoreHead
from hone.objectives.rerank import Rerank, draw_others, listwise, pointwise
from tests.data.plain import settings
from tests.families import tiny


def test_listwise_is_the_log_softmax_of_the_first_of_each_query():
    scores = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, -math.inf]])
    wanted = [math.log(math.e + 1 + math.e**2) - 1, math.log(math.e**3 + math.e) - 3]
    assert listwise(scores).tolist() == pytest.approx(wanted, rel=1e-6)


def test_pointwise_is_minus_the_log_of_what_is_right():
    found = pointwise(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))], rel=1e-6)


def test_braces_in_a_query_or_text_mean_nothing():
    assert (
        write_pair("{query} | {document} | {query}", "a {document}", "b {query} {x}")
        == "a {document} | b {query} {x} | a {document}"
    )


def sequence(*ids: int) -> Encoded:
    array = np.array(ids, np.int32)
    return Encoded(array, np.full_like(array, IGNORE))


ROWS = [
    Example((sequence(5, 6, 7), sequence(5, 9), sequence(11, 12, 13, 14)), value=1),
    Example((sequence(3, 4), sequence(3, 8, 10), sequence(3, 8, 10)), value=2),
    Example((sequence(21, 22),), value=1),
]


@pytest.mark.parametrize("layout", [pack, lambda rows: pad(rows, 0)])
@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_the_loss_is_that_of_the_scores_of_plain_transformers(loss, layout):
    config = tiny("llama").config
    ScoreHead(("score",), "").apply(config, 0)
    torch.manual_seed(1)
    module = AutoModelForSequenceClassification.from_config(config).eval()
    module.score.weight.data.mul_(20)
    rows = ROWS[:1] if loss == "listwise" else ROWS
    with torch.no_grad():
        scores = [[float(module(input_ids=torch.tensor([one.ids.tolist()])).logits) for one in row.sequences] for row in rows]
        found = Rerank(RerankConfig(rerank_loss=loss)).loss(Policy(module), layout(rows))
    first, *others = scores[0]
    if loss == "listwise":
        wanted = math.log(sum(map(math.exp, scores[0]))) - first
    else:
        signed = [
            (-1 if number < row.value else 1) * one
            for row, own in zip(rows, scores, strict=True)
            for number, one in enumerate(own)
        ]
        wanted = sum(math.log(1 + math.exp(one)) for one in signed)
    assert float(found.total) == pytest.approx(wanted, abs=1e-4)
    ranks = [1 + sum(one >= first for one in others)]
    if loss == "pointwise":  # of two that answer the better one counts; its equal, which does not answer, is before it
        ranks.append(1 + (scores[1][2] >= max(scores[1][:2])))
    assert float(found.metrics["mrr"][0]) == pytest.approx(sum(1 / rank for rank in ranks))
    assert float(found.metrics["accuracy"][0]) == ranks.count(1) and float(found.metrics["mrr"][1]) == len(ranks)


def test_rows_are_written_and_encoded_as_the_tokenizer_does(tiny_tokenizer):
    codec = build_codec(ChatConfig(template="empty"), tiny_tokenizer)
    row = Match("Where?", ("Here.", "There."), ("Nowhere.",))
    listed = Rerank(RerankConfig(rerank_text="{query} # {document}"))
    samples = listed.examples(row, codec)
    assert [one.positives for one in samples] == [("Here.",), ("There.",)]
    first, second = listed.encode(samples, codec)
    ids = [one.ids.tolist() for one in second.sequences]
    assert ids == [tiny_tokenizer(text)["input_ids"] for text in ("Where? # There.", "Where? # Nowhere.")]
    assert first.value == second.value == 1
    alone = Rerank(RerankConfig(rerank_loss="pointwise"))
    (whole,) = alone.encode(alone.examples(row, codec), codec)
    assert whole.value == 2 and len(whole.sequences) == 3
    with pytest.raises(RowError, match="no text that does not answer"):
        listed.examples(Match("q", ("p",)), codec)
    with pytest.raises(DataError, match=r"trained with .*; write that"):
        listed.settled(None, ScoreHead(("score",), "", "Q {query} D {document}"))


def test_texts_of_others_are_drawn_by_seed_and_row_and_never_answer():
    rows = [Match(f"q{number % 7}", (f"p{number}", "further"), (f"p{(number + 1) % 20}",)) for number in range(20)]
    found = draw_others(rows, 5, seed=3)
    for number, others in enumerate(found):
        texts = {rows[other].positives[0] for other in others}
        right = {text for row in rows if row.query == rows[number].query for text in row.positives}
        assert len(texts) == 5 and not texts & {*right, *rows[number].negatives}
    assert (found == draw_others(rows, 5, seed=3)).all() and (found != draw_others(rows, 5, seed=4)).any()
    assert len(set(found.flatten().tolist())) == 20, "no row is left out, none is favoured"
    assert (draw_others(rows, 3, seed=3) == found[:, :3]).all(), "more of them are further ones"
    with pytest.raises(DataError, match=r"'q0' there are 17 texts that do not answer it, of 20 rows.*; write 17, or add rows"):
        draw_others([replace(row, negatives=()) for row in rows], 18, seed=0)


def test_a_text_of_another_row_is_read_as_the_tokenizer_does_and_cut_at_its_end(tiny_tokenizer, tmp_path):
    codec = build_codec(ChatConfig(template="empty"), tiny_tokenizer)
    rows = [{"query": f"q {n}", "positive": f"the answer {n} " * 4, "negative": [] if n else ["no"]} for n in range(5)]
    objective = Rerank(RerankConfig(rerank_random_negatives=2, rerank_text="{query} # {document}"))
    assert objective.examples(Match("q", ("p",)), codec), "needs no negatives of its own"
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    entry = {"file_name": "rows.json", "columns": {"query": "query", "positive": "positive", "negative": "negative"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    data = settings(tmp_path, dataset_dir=str(tmp_path), cutoff_len=14)
    whole = build_data(data, objective, codec, names=("rows",), seed=0)
    made = objective.complete(whole, codec, seed=0, longest=14)
    assert [len(made[at].sequences) for at in range(5)] == [4, 3, 3, 3, 3] and made[0].value == 1
    assert made.lengths.tolist() == [len(made[at]) for at in range(5)]
    for at, others in enumerate(draw_others([Match(row["query"], (row["positive"],)) for row in rows], 2, seed=0)):
        texts = [f"q {at} # {rows[other]['positive']}" for other in others]
        assert [one.ids.tolist() for one in made[at].sequences[-2:]] == [tiny_tokenizer(text)["input_ids"][:14] for text in texts]
    assert objective.problem_of(made) == ""
