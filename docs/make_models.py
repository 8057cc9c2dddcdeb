"""Writes docs/models.md out of what is found of every architecture: `python docs/make_models.py`, or `make docs`.

Does not judge: tests/models/test_architectures.py does.
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).with_name("models.md")
sys.path.insert(0, str(PAGE.parents[1]))

from tests.architectures import Found, examine  # noqa: E402 - the tests are no package that is installed
from tests.families import FAMILIES, REMOTE, SEEING, WHOLE  # noqa: E402

OPENING = """# Models

Written by `make docs` from what the test suite finds: a tiny random model of every causal architecture of transformers
5.23 that the catalogued families and their successors use is made and put through everything hone does with a model.
Sizes, weights and tokenizers of real models are no part of this; the architecture is.

"""
COLUMNS = """
- **log-probs**: the log-prob of each token and its gradient to every weight are those of the model's own forward,
  without all logits being formed.
- **batches**: packed: several sequences in a row without padding, each of which attends by itself. with a mask: packed
  alike, but the family reads a mask of all the row's tokens by all, which costs the row's length squared. padded: the
  family would let sequences see each other, so hone pads. Either is said once at the start. shared: the prompt of a
  pair is computed once for both of its answers; not where a layer sees by place (windows, chunks, indexers), nor while
  a router's balance loss is learned. The self-test at every start looks again.
- **LoRA**: the linear layers that `lora_target: all` adapts, by the last part of their name. *Not*: linear layers it
  leaves out: the head, always; routers, gates and the indexers of sparse attention, which would learn to choose, or
  which no gradient reaches; layers that a kernel uses past their own forward; and, where experts are fused, shared
  experts and dense layers of a name that peft takes for the experts' own (peft 0.21 could not read such an adapter
  back). *Experts*: held as one tensor of all experts; they get no addition, and `finetuning_type: full` or `freeze`
  trains them. What is left out is said at the start of a run.
- **saved**: the whole model, an adapter, and the adapter merged give the same logits when they are read again.
- **router loss**: `moe_aux_loss_coef` is honoured, and the loss is the model's own on one sequence. It is computed for
  every sequence by itself, so packing, padding, the micro-batch and accumulation do not change it (transformers
  computes it for a whole micro-batch and adds it once for each). none: transformers has no balance loss for the family,
  which balances its experts otherwise; the key is refused there, as it is for models without experts.
"""
SEEN = """Tried with tiny random models: the ids and tensors of a conversation with pictures or sounds are those of the maker's
own processor, the log-probs of its answers those of transformers' plain forward (to 2e-5, padded and packed; with
pictures their gradients too, of all weights and of LoRA's), and answers those that its `generate` draws. Training and
answering take them alike; films are refused by name. See [data.md](data.md#pictures-and-sounds) and
[serving.md](serving.md#pictures-sounds-and-films)."""


def page() -> str:
    """The whole page."""
    used = {name: examine(name) for name, family in FAMILIES.items() if family.used_by}
    others = [name for name, family in FAMILIES.items() if not family.used_by]
    rows = [_row(name, found) for name, found in sorted(used.items())]
    head = ["| architecture | families | log-probs | batches | LoRA | saved | router loss |", "|---|---|---|---|---|---|---|"]
    parts = [
        *(OPENING + _counts(used) + COLUMNS, "## Architectures", "", *head, *rows, ""),
        f"Tested alike, though no family of the list uses them: {', '.join(f'`{name}`' for name in others)}.",
        *("", "## Models that bring their own code", ""),
        "transformers has no such architecture: the code comes with the model and runs with `trust_remote_code: true`. Nothing",
        "is promised; the self-test at the start of a run decides on packing, and finds a forward that must be taken as it is.",
        *("", "| model_type | families |", "|---|---|", *(f"| `{kind}` | {used_by} |" for kind, used_by in REMOTE.items()), ""),
        *("## Models that take pictures or sounds", ""),
        SEEN,
        *("", "| model_type | families | template | batches |", "|---|---|---|---|"),
        *(f"| `{kind}` | {' | '.join(told)} |" for kind, told in SEEING.items()),
        *("", "## Not here yet", ""),
        "Models of images, sound or video as a whole. Their text part is an architecture of the table above where one is named.",
        *("", "| model_type | families | text part |", "|---|---|---|"),
        *(f"| `{kind}` | {used_by} | {_named(text)} |" for kind, (used_by, text) in WHOLE.items()),
    ]
    return "\n".join(parts) + "\n"


def _counts(used: dict[str, Found]) -> str:
    adapted = sum(_adapted_as_meant(name, found) for name, found in used.items())
    lines = [
        f"- {len(used)} architectures; {_count(used, 'right')} with right log-probs and gradients",
        f"- {_count(used, 'isolated')} packed, {_count(used, 'padded_only')} padded",
        f"- {adapted} with LoRA on the layers that are meant, {_count(used, 'learns')} with right gradients of it; "
        f"{_count(used, 'reloads')} saved and read back",
        f"- {_count(used, 'fused')} with experts, {_count(used, 'balanced')} of them with a router loss",
        f"- {len(REMOTE)} more that bring their own code, {len(WHOLE)} of images, sound or video that are not here yet",
    ]
    return "\n".join(lines) + "\n"


def _count(used: dict[str, Found], what: str) -> int:
    return sum(bool(getattr(found, what)) for found in used.values())


def _row(name: str, found: Found) -> str:
    kind, _, variant = name.partition("+")
    cells = [
        f"`{kind}`" + (f" with {variant}" if variant else ""),
        FAMILIES[name].used_by,
        "yes" if found.right else "no",
        _batches(found),
        _lora(found),
        "yes" if found.reloads else "no",
        "-" if not found.fused else "yes" if found.balanced else "none",
    ]
    return f"| {' | '.join(cells)} |"


def _batches(found: Found) -> str:
    if not found.isolated:
        return f"padded: {found.padded_only}"
    return "packed" + ("" if found.by_sequence else " with a mask") + (", shared" if found.shared else "")


def _lora(found: Found) -> str:
    parts = [_lasts(found.targets)]
    if found.left:
        parts.append(f"*Not* {_lasts(found.left)}")
    if found.fused:
        parts.append("*Experts* fused")
    return ". ".join(parts)


def _adapted_as_meant(name: str, found: Found) -> bool:
    family = FAMILIES[name]
    return _last_parts(found.targets) == set(family.targets.split()) and _last_parts(found.left) == set(family.left.split())


def _lasts(paths: frozenset[str]) -> str:
    """Names of lists' members are shown with the list's."""
    names = {path.rpartition(".")[-1] if not path[-1].isdigit() else path.split(".")[-2] for path in paths}
    return " ".join(sorted(names))


def _last_parts(paths: frozenset[str]) -> set[str]:
    return {path.rpartition(".")[-1] for path in paths}


def _named(text: str) -> str:
    return ", ".join(f"`{kind}`" for kind in text.split()) or "its own"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
