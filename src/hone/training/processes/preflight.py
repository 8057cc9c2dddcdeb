"""Preflight: before a run's processes wait for each other in collectives, they meet and see that they are one run.

Compared are versions, settings, number formats and data; then one sum is taken over all. Does not know what is trained.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import yaml

import hone
from hone.config.run import Run
from hone.data.build import TokenSet
from hone.errors import TrainingError
from hone.training.device import Device
from hone.training.planning.plan import versions
from hone.training.processes.address import interface_of, own_address
from hone.training.processes.differences import Differences
from hone.training.processes.meeting import Meeting, Member, alone, meet
from hone.training.processes.voice import keep_torchruns_store

_COMPARED = ("hone", "torch", "transformers", "peft", "accelerate", "tokenizers")
_MAY_DIFFER = ("cache_dir", "dataset_dir", "tokenized_path", "preprocessing_num_workers", "logging_dir", "model_name_or_path")
"""Settings that may name another place on each machine; what is read there is compared by its content."""

HINT = (
    "The processes have met, so each runs and reaches rank 0; they do not reach each other, or a device does not answer. A "
    "firewall between machines must let all ports through; NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME names the network to "
    "use, NCCL_DEBUG=INFO tells more, and join_timeout allows more time"
)
"""What to look at where processes that have met do not come through their first collective."""

_AGENT = "TORCHELASTIC_USE_AGENT_STORE"


def join(run: Run, settings: str) -> Meeting:
    """Meet the other processes of the run, and see that all have the same versions and settings; alone where there is one.

    settings: the resolved ones, as YAML; run: with `bf16: auto` settled. Raises TrainingError on all processes, with what is
    missing or different and where. torch's own store is from here on the meeting's: new in every start of a run.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world == 1:
        return alone("rank")
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    mine = flat(settings) | {"bf16": run.train.bf16}
    about = {**_versions(), "WORLD_SIZE": str(world), "settings": _digest(mine)}
    meeting = meet(
        Member("rank", rank, world, about, json.dumps(mine)), address=address, port=port, seconds=run.parallel.join_timeout,
        agent=os.environ.get(_AGENT) == "True", judge=judge,
    )  # fmt: skip
    if meeting.store is not None and os.environ.get(_AGENT) == "True":
        keep_torchruns_store()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = meeting.store.host, str(meeting.store.port)
    _use_network_of(meeting)
    return meeting


def prove_sum(device: Device) -> None:
    """One sum over all processes whose result is known: each adds its rank + 1, and those of one share of batches count once."""
    found, wanted = device.total([device.rank + 1.0])[0], device.data_world * (device.world + 1) / 2
    if abs(found - wanted) > 1e-6 * wanted:
        raise TrainingError(
            f"a first sum over {device.world} processes gave {found:g}, not {wanted:g}: what they exchange is not what arrives. "
            "Try another network (NCCL_SOCKET_IFNAME), or ddp_backend: gloo, to find the part that is broken"
        )


def same_data(meeting: Meeting, data: dict[str, str]) -> None:
    """Wait until every process has its data, however long they are encoded, and see that they are the same."""
    meeting.say("data", json.dumps(data))
    meeting.wait("the data", judge=functools.partial(_judge_data, meeting))
    meeting.rest()


def digest(tokens: TokenSet) -> dict[str, str]:
    """What the data of a process are, by set: their content, and how the sets are mixed."""
    sets = {f"rows of {name}": entry.key[:12] for name, entry in zip(tokens.names, tokens.entries, strict=True)}
    mixture = hashlib.sha256(tokens.sets.tobytes() + tokens.places.tobytes()).hexdigest()[:12]
    return {**sets, "order of the rows": mixture}


def _versions() -> dict[str, str]:
    found = versions()
    python = ".".join(platform.python_version_tuple()[:2])
    return {**{name: found[name] for name in _COMPARED}, "python": python, "hone's source": _source()}


def _source() -> str:
    """A digest of hone's own files: a checkout has the same version before and after a change."""
    total = hashlib.sha256()
    for path in sorted(Path(hone.__file__).parent.rglob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def flat(settings: str) -> dict[str, Any]:
    """The settings of all sections by name, without those that may name other places elsewhere."""
    tree = yaml.safe_load(settings)
    return {name: value for part in tree.values() for name, value in part.items() if name not in _MAY_DIFFER}


def judge(meeting: Meeting) -> str:
    """Which versions and settings differ from the first process's; "" where none does."""
    cards, found = meeting.cards(), Differences(meeting)
    for card in cards[1:]:
        first, there = dict[str, Any](cards[0].about), dict[str, Any](card.about)
        if first.pop("settings") != there.pop("settings"):
            first |= json.loads(meeting.heard("details", 0))
            there |= json.loads(meeting.heard("details", card.number))
        found.compare(first, there, card)
    bf16 = any(line.startswith("bf16: ") for line in found.lines)
    mend = "; write bf16: true or false, so that unlike machines compute alike" if bf16 else ""
    return found.refusal(
        "the processes are not of one run", f"Install the same versions and give the same settings everywhere{mend}"
    )


def _judge_data(meeting: Meeting) -> str:
    found, first = Differences(meeting), json.loads(meeting.heard("data", 0))
    for card in meeting.cards()[1:]:
        found.compare(first, json.loads(meeting.heard("data", card.number)), card)
    return found.refusal("the processes have other data", "Copy the same files, tokenizer and dataset_info.json to every machine")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _use_network_of(meeting: Meeting) -> None:
    """Have gloo talk over the network on which the processes met: by itself it takes that of the machine's name."""
    address = own_address(os.environ["MASTER_ADDR"]) if meeting.card.address.startswith("127.") else meeting.card.address
    if not address.startswith("127.") and (name := interface_of(address)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
