"""How much of its reference an answer says: BLEU-4 and ROUGE of two texts, in per cent.

Does not know models or data sets. Words are runs of letters and digits in lower case; in scripts without spaces each character
is one, so that no dictionary is needed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]|_")


def overlap(answer: str, reference: str) -> dict[str, float]:
    """bleu-4, rouge-1, rouge-2, rouge-l and exact (100 where both say the same but for white space at the ends)."""
    ours, theirs = words(answer), words(reference)
    return {
        "bleu-4": 100 * bleu(ours, theirs),
        "rouge-1": 100 * rouge(ours, theirs, 1),
        "rouge-2": 100 * rouge(ours, theirs, 2),
        "rouge-l": 100 * rouge_l(ours, theirs),
        "exact": 100.0 * (answer.strip() == reference.strip()),
    }


def words(text: str) -> list[str]:
    """The words of a text, punctuation marks among them."""
    return _WORD.findall(text.lower())


def bleu(answer: Sequence[str], reference: Sequence[str], most: int = 4) -> float:
    """BLEU of one answer (Papineni et al. 2002), n up to `most`, smoothed: a count of 0 is taken as a half (Chen, Cherry 2014).

    A text of fewer than `most` words is measured in as long pieces as it has.
    """
    if not answer or not reference:
        return float(not answer and not reference)
    orders = range(1, min(most, len(answer), len(reference)) + 1)
    logs = [math.log(max(_shared(answer, reference, n), 0.5) / (len(answer) - n + 1)) for n in orders]
    shortness = min(0.0, 1 - len(reference) / len(answer))
    return math.exp(shortness + sum(logs) / len(logs)) if _shared(answer, reference, 1) else 0.0


def rouge(answer: Sequence[str], reference: Sequence[str], size: int) -> float:
    """ROUGE-N's F1 (Lin 2004): of pieces of `size` words; where neither has any, whether they are the same."""
    ours, theirs = max(len(answer) - size + 1, 0), max(len(reference) - size + 1, 0)
    if not ours + theirs:
        return float(list(answer) == list(reference))
    return 2 * _shared(answer, reference, size) / (ours + theirs)


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L's F1: of the longest words in common in the same order."""
    lengths = [0] * (len(reference) + 1)
    for word in answer:
        before = 0
        for place, other in enumerate(reference, 1):
            here = lengths[place]
            lengths[place] = before + 1 if word == other else max(here, lengths[place - 1])
            before = here
    return 2 * lengths[-1] / (len(answer) + len(reference)) if answer or reference else 1.0


def _shared(ours: Sequence[str], theirs: Sequence[str], size: int) -> int:
    return sum((_pieces(ours, size) & _pieces(theirs, size)).values())


def _pieces(found: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(found[start : start + size]) for start in range(len(found) - size + 1))
