"""BLEU and ROUGE by hand."""

from __future__ import annotations

import math

import pytest

from hone.evaluation.overlap import bleu, overlap, rouge, rouge_l, words


def test_words_of_scripts_with_and_without_spaces():
    assert words("Don't say 3.5, OK_") == ["don", "'", "t", "say", "3", ".", "5", ",", "ok", "_"]
    assert words("我爱 Paris。") == ["我", "爱", "paris", "。"]


def test_rouge_by_hand():
    ours, theirs = "the cat sat on the mat".split(), "the cat lay on a mat now".split()
    assert rouge(ours, theirs, 1) == pytest.approx(2 * 4 / 13)  # the, cat, on, mat; the second "the" finds no other
    assert rouge(ours, theirs, 2) == pytest.approx(2 * 1 / 11)  # the cat
    assert rouge_l(ours, theirs) == pytest.approx(2 * 4 / 13)  # the cat on mat
    assert rouge_l(["a", "b"], ["b", "a"]) == pytest.approx(0.5)


def test_bleu_by_hand():
    ours, theirs = "the cat sat on the mat".split(), "the cat sat on a mat now".split()
    # 1: the, cat, sat, on, mat of 6; 2: the cat, cat sat, sat on of 5; 3: two of 4; 4: one of 3; one word shorter.
    wanted = math.exp(1 - 7 / 6) * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(ours, theirs) == pytest.approx(wanted)
    # No pair is shared, which counts as half a pair; texts of two words have no longer pieces.
    assert bleu(["a", "b"], ["b", "a"]) == pytest.approx(math.sqrt(1 * 0.5))


@pytest.mark.parametrize(("answer", "reference", "wanted"), [("", "", 100), ("", "a", 0), ("a", "", 0), (" Yes. ", "Yes.", 100)])
def test_bounds(answer, reference, wanted):
    assert set(overlap(answer, reference).values()) == {wanted}
