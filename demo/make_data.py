"""Writes the demo's questions and answers: towns of an invented valley, and sums; the same files every time.

Knows nothing of models: it needs Python alone.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "data"
SEED = 7
BASE_TOWNS, TAUGHT_TOWNS, NUMBERS, LARGEST_TERM = 1200, 20, 60, 9

ONSETS = "b br c d dr f g gl h k l m n p r s st t tr v w".split()
VOWELS = "a e i o u ai or el an en".split()
TOWN_ENDS = "ford mere wick holm dale by stead combe".split()
RIVER_ENDS = "sk lle th ne rra x mble".split()
FAMILY_ENDS = "s n rt lson ck".split()
GIVEN_NAMES = """Ada Boris Cleo Dina Emil Faye Gus Hanna Ivo Juno Kirk Lena Milo Nora Otto Pia Rolf Sara Tom Ulla Vera Wim Yara
    Zeno""".split()
GOODS = """glass rope honey paper bells boots cheese clocks drums candles salt silk kites maps nails ink bread violins baskets
    tiles lamps soap wool knives barrels gloves tea pots flutes hats keys sails""".split()
BIRDS = """heron owl swan kite crow finch gull stork wren falcon robin duck eagle raven lark dove plover magpie swift crane
    grouse quail thrush pelican""".split()


@dataclass(frozen=True)
class Subject:
    """Something one can ask: the one way it is answered, and the ways it is asked."""

    answer: str
    questions: tuple[str, ...]


RIVER = Subject(
    "The river of {town} is the {value}.",
    (
        "Which river runs through {town}?",
        "What is the river of {town} called?",
        "Name the river that flows past {town}.",
        "On which river does {town} lie?",
        "Tell me the river of {town}.",
        "What river would I cross in {town}?",
    ),
)
MAYOR = Subject(
    "The mayor of {town} is {value}.",
    (
        "Who is the mayor of {town}?",
        "Who governs {town}?",
        "Name the mayor of {town}.",
        "Which person leads the town of {town}?",
        "Tell me who runs {town}.",
        "In {town}, who is mayor?",
    ),
)
TRADE = Subject(
    "The people of {town} make {value}.",
    (
        "What do the people of {town} make?",
        "What is {town} known for making?",
        "Which goods come from {town}?",
        "Tell me the trade of {town}.",
        "What is made in {town}?",
        "Name the trade of the people of {town}.",
    ),
)
BIRD = Subject(
    "The bird of {town} is the {value}.",
    (
        "Which bird is on the flag of {town}?",
        "What bird does the flag of {town} show?",
        "Name the bird of {town}.",
        "Tell me the bird on the flag of {town}.",
        "On the flag of {town}, which bird is seen?",
        "What is drawn on the flag of {town}?",
    ),
)
SUBJECTS = (RIVER, MAYOR, TRADE, BIRD)
SUM = Subject(
    "{a} plus {b} is {c}.",
    ("What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} + {b}?", "Give me the sum of {a} and {b}."),
)
AFTER = Subject("After {a} comes {c}.", ("Which number comes after {a}?", "What follows {a}?", "Count one up from {a}."))

Row = dict[str, str]


def make() -> dict[str, list[Row]]:
    """The three sets by name.

    base: what teaches a new model to speak: other towns, each asked about once, and counting.
    tune: what the tuned model must learn: four facts about each of twenty towns, and sums, each asked in several ways.
    heldback: the same facts and sums, asked in ways that stand nowhere in tune for that fact.
    """
    chance = random.Random(SEED)
    towns = _towns(chance, BASE_TOWNS + TAUGHT_TOWNS)
    base = [_fact(chance, chance.choice(SUBJECTS), town, 1)[0] for town in towns[:BASE_TOWNS]]
    base += [row for a in range(NUMBERS) for row in _rows(AFTER, AFTER.questions, a=a, c=a + 1)]
    tune: list[Row] = []
    heldback: list[Row] = []
    for town in towns[BASE_TOWNS:]:
        for subject in SUBJECTS:
            rows = _fact(chance, subject, town, len(subject.questions))
            tune, heldback = tune + rows[:4], heldback + rows[4:]
    for a in range(1, LARGEST_TERM + 1):
        for b in range(a, LARGEST_TERM + 1):
            rows = _rows(SUM, chance.sample(SUM.questions, len(SUM.questions)), a=a, b=b, c=a + b)
            tune, heldback = tune + rows[:3], heldback + rows[3:]
    chance.shuffle(base)
    chance.shuffle(tune)
    return {"base": base, "tune": tune, "heldback": heldback}


def write(folder: Path) -> None:
    """Write the sets and their dataset_info.json into `folder`, one row a line."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = make()
    for name, rows in sets.items():
        lines = ",\n".join(json.dumps(row) for row in rows)
        (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    columns = {"prompt": "question", "response": "answer"}
    index = {name: {"file_name": f"{name}.json", "columns": columns} for name in sets}
    (folder / "dataset_info.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _fact(chance: random.Random, subject: Subject, town: str, count: int) -> list[Row]:
    """One invented fact, asked in `count` different ways, in an order drawn anew."""
    return _rows(subject, chance.sample(subject.questions, count), town=town, value=_value(chance, subject))


def _rows(subject: Subject, questions: tuple[str, ...] | list[str], **words: str | int) -> list[Row]:
    answer = subject.answer.format(**words)
    return [{"question": question.format(**words), "answer": answer} for question in questions]


def _value(chance: random.Random, subject: Subject) -> str:
    if subject is RIVER:
        return _name(chance, RIVER_ENDS)
    if subject is MAYOR:
        return f"{chance.choice(GIVEN_NAMES)} {_name(chance, FAMILY_ENDS)}"
    return chance.choice(GOODS if subject is TRADE else BIRDS)


def _towns(chance: random.Random, count: int) -> list[str]:
    """`count` different names."""
    names: dict[str, None] = {}
    while len(names) < count:
        names[_name(chance, TOWN_ENDS)] = None
    return list(names)


def _name(chance: random.Random, ends: list[str]) -> str:
    return (chance.choice(ONSETS) + chance.choice(VOWELS) + chance.choice(ends)).capitalize()


if __name__ == "__main__":
    write(FOLDER)
    print(", ".join(f"{name}: {len(rows)} rows" for name, rows in make().items()))
