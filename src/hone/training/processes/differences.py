"""Differences: in what the members of a meeting differ from its first, each once, in words.

Does not know what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from hone.training.processes.meeting import Card, Meeting, in_words


class Differences:
    """What differs from the first member, each once, with all the members that have it."""

    def __init__(self, meeting: Meeting):
        self._meeting = meeting
        self.lines = dict[str, list[int]]()

    def compare(self, first: Mapping[str, object], there: Mapping[str, object], card: Card) -> None:
        """Note what differs between the first member's values and those of `card`."""
        for name in dict.fromkeys((*first, *there)):
            if first.get(name) != there.get(name):
                begins = f"{self._meeting.called} 0 ({self._meeting.card_of(0)})"
                line = f"{name}: {first.get(name)} on {begins}, {there.get(name)} on {card}, "
                self.lines.setdefault(line, []).append(card.number)

    def refusal(self, what: str, mend: str) -> str:
        """All of it in words; "" where nothing differs."""
        rows = [f"  {line}{in_words(numbers, self._meeting.called)}" for line, numbers in self.lines.items()]
        more = [f"  and {len(rows) - 20} more"] if len(rows) > 20 else []
        return "\n".join([f"{what}:", *rows[:20], *more, mend]) if rows else ""


def differing(meeting: Meeting) -> str:
    """For `meet`: what the cards differ in."""
    found, cards = Differences(meeting), meeting.cards()
    for card in cards[1:]:
        found.compare(cards[0].about, card.about, card)
    return found.refusal(f"the {meeting.called}s are not of one run", "Start all with the same versions and variables")
