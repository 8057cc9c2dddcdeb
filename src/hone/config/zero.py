"""Zero: what DeepSpeed's settings (`deepspeed`, a JSON file or a mapping) ask for, and those that DeepSpeed itself is given.

Does not know DeepSpeed, nor whether the fields are right: `zero_fields` looks at that.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

AUTO = "auto"


@dataclass(frozen=True)
class Zero:
    """What DeepSpeed is to do. passed: fields that are its own; forces_cpu_adam: its AdamW for the CPU is asked for by name."""

    stage: int
    offloads: bool
    forces_cpu_adam: bool
    passed: dict[str, Any] = field(default_factory=dict)

    def filled(self, *, precision: str, width: int) -> dict[str, Any]:
        """As deepspeed.initialize takes it. width: of the hidden states, from which Hugging Face reckons what is left to `auto`.

        The loop divides the loss and says which micro-batch is a step's last, so DeepSpeed counts one of them a step.
        """
        sizes = {
            "reduce_bucket_size": width * width,
            "stage3_prefetch_bucket_size": int(0.9 * width * width),
            "stage3_param_persistence_threshold": 10 * width,
        }
        own = dict(self.passed["zero_optimization"])
        own |= {"round_robin_gradients": False} | {name: size for name, size in sizes.items() if own.get(name) == AUTO}
        return {
            "steps_per_print": 10**9,
            "zero_allow_untested_optimizer": True,
            **self.passed,
            "zero_optimization": own,
            "zero_force_ds_cpu_optimizer": self.forces_cpu_adam,
            "fp16": {**self.passed.get("fp16", {}), "enabled": precision == "fp16"},
            "bf16": {"enabled": precision == "bf16"},
            "gradient_clipping": 0.0,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
        }


def opened(value: str | dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, or as they were written; ValueError says what is wrong with the file."""
    if isinstance(value, dict):
        return value
    path = Path(value)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ValueError(f"{value} cannot be read: {problem.strerror}; name DeepSpeed's JSON file") from problem
    except ValueError as problem:
        raise ValueError(f"{value} is no JSON: {problem}") from problem
    if not isinstance(found, dict):
        raise ValueError(f"{value} holds no mapping; name DeepSpeed's JSON file")
    return found


def stage_of(fields: str | dict[str, Any] | None) -> int:
    """The stage of ZeRO that is asked for; 0 for none."""
    stage = part_of(fields, "zero_optimization").get("stage", 0) if isinstance(fields, dict) else 0
    return stage if stage in (1, 2, 3) else 0


def zero_of(fields: dict[str, Any]) -> Zero:
    """What settings without faults ask for."""
    own = part_of(fields, "zero_optimization")
    offload = {name: part for name in ("offload_optimizer", "offload_param") if (part := part_of(own, name)) and _offloads(part)}
    kept = {name: value for name, value in own.items() if name in ("stage", *known_fields("zero_optimization"))}
    passed = {name: value for name, value in fields.items() if name in known_fields("root")}
    for name in ("fp16", "data_types"):
        passed |= {name: {key: part for key, part in part_of(fields, name).items() if key in known_fields(name)}}
    return Zero(
        stage=stage_of(fields),
        offloads="offload_optimizer" in offload,
        forces_cpu_adam="offload_optimizer" in offload and fields.get("zero_force_ds_cpu_optimizer") is True,
        passed={**passed, "zero_optimization": {**kept, **offload}},
    )


def part_of(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """A mapping among the fields; an empty one where there is none."""
    found = fields.get(name)
    return found if isinstance(found, dict) else {}


def _offloads(part: dict[str, Any]) -> bool:
    return part.get("device", "none") != "none"


def known_fields(part: str) -> tuple[str, ...]:
    """The names of a part that DeepSpeed is handed."""
    return tuple(table()[part]["fields"])


@cache
def table() -> dict[str, Any]:
    """deepspeed.toml."""
    return tomllib.loads((files("hone.config") / "deepspeed.toml").read_text(encoding="utf-8"))
