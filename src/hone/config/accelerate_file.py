"""The settings that `accelerate launch` takes from a file, or hands on in variables, as keys of ours.

Does not know what sharding does; what a file says of starting processes is told and left to `hone train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone.config.convert import FALSE, TRUE
from hone.config.settings import Given, Settings
from hone.config.source import read_file
from hone.errors import Mistake

_LAUNCHES = (
    "num_processes num_machines machine_rank main_process_ip main_process_port rdzv_backend same_network "
    "main_training_function debug gpu_ids enable_cpu_affinity"
).split()
_ELSEWHERE = ("compute_environment", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "tpu_name", "tpu_zone", "tpu_commands")
_PLAIN = ("distributed_type", "fsdp_config", "mixed_precision", "downcast_bf16", "use_cpu")
_VARIABLES = {  # accelerate's variable: the key of fsdp_config
    "FSDP_VERSION": "version",
    "FSDP_SHARDING_STRATEGY": "sharding_strategy",
    "FSDP_RESHARD_AFTER_FORWARD": "reshard_after_forward",
    "FSDP_OFFLOAD_PARAMS": "offload_params",
    "FSDP_MIN_NUM_PARAMS": "min_num_params",
    "FSDP_AUTO_WRAP_POLICY": "auto_wrap_policy",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "transformer_layer_cls_to_wrap",
    "FSDP_BACKWARD_PREFETCH": "backward_prefetch",
    "FSDP_STATE_DICT_TYPE": "state_dict_type",
    "FSDP_FORWARD_PREFETCH": "forward_prefetch",
    "FSDP_USE_ORIG_PARAMS": "use_orig_params",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "cpu_ram_efficient_loading",
    "FSDP_SYNC_MODULE_STATES": "sync_module_states",
    "FSDP_ACTIVATION_CHECKPOINTING": "activation_checkpointing",
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": "activation_checkpointing_offload",
    "FSDP_IGNORED_MODULES": "ignored_modules",
}


def _from_variables(variables: Mapping[str, str]) -> dict[str, Any]:
    """What `accelerate launch` handed on, as its file's content."""
    config = {key: variables[name] for name, key in _VARIABLES.items() if name in variables}
    if config.get("version") == "2":  # it sets FSDP1's words beside, at their defaults
        for key in ("sharding_strategy", "use_orig_params", "backward_prefetch", "sync_module_states"):
            config.pop(key, None)
    return {
        "distributed_type": "FSDP",
        "mixed_precision": variables.get("ACCELERATE_MIXED_PRECISION", "no"),
        "fsdp_config": config,
    }


class Sharded:
    """Puts the content of files and variables into the settings; `mistakes` and `notes` say what was found on the way."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self.mistakes: list[Mistake] = []
        self.notes: list[str] = []

    def take(self, variables: Mapping[str, str] | None) -> None:
        """variables: accelerate's, where it started this process and was told of FSDP."""
        given = self._settings.given.get("fsdp_config")
        if variables is not None and ("fsdp" in self._settings.given or given):
            written = "fsdp" if "fsdp" in self._settings.given else "fsdp_config"
            message = "is written, and accelerate launch was told of FSDP too; leave one of them out, or start with hone train"
            self.mistakes.append(Mistake(self._settings.where(written), written, message))
        elif variables is not None:
            self._accelerate(_from_variables(variables), Given({}, "environment", "fsdp_config", 0), where="accelerate launch")
        elif given and isinstance(given.value, str):
            self._file(given)
        elif given and isinstance(given.value, Mapping) and "distributed_type" in given.value:
            self._accelerate(dict(given.value), given, where="fsdp_config")

        config = self._settings["fsdp_config"]
        if isinstance(config, Mapping):
            self._recompute(config)

    def _recompute(self, config: Mapping[str, Any]) -> None:
        """activation_checkpointing is what gradient_checkpointing says; transformers takes the former too."""
        given = self._settings.given["fsdp_config"]
        asked = next((value for key, value in config.items() if key.removeprefix("fsdp_") == "activation_checkpointing"), None)
        if str(asked).lower() not in TRUE:
            return
        self._fill("gradient_checkpointing", True, given, "fsdp_config")
        if self._settings["gradient_checkpointing"] is False:
            self._wrong(given, "activation_checkpointing: true, and gradient_checkpointing: false is written; remove one of them")

    def _file(self, given: Given) -> None:
        items, mistakes = read_file(Path(given.value))
        if mistakes:
            self.mistakes += [Mistake(given.where, "fsdp_config", f"{one.where}: {one.message}") for one in mistakes]
            self._put("fsdp_config", {}, given)
            return
        content = {item.key: item.value.data for item in items}
        if "distributed_type" in content or "compute_environment" in content:
            self._accelerate(content, given, where=str(given.value))
        else:
            self._put("fsdp_config", content, given)

    def _accelerate(self, content: dict[str, Any], given: Given, *, where: str) -> None:
        kind = str(content.get("distributed_type"))
        if kind != "FSDP":
            hint = "name its JSON file under deepspeed" if kind == "DEEPSPEED" else "leave fsdp_config out for DDP"
            self._wrong(given, f"{where}: distributed_type: {kind} is not FSDP; {hint}")
        for key, value in content.items():
            if key not in (*_LAUNCHES, *_ELSEWHERE, *_PLAIN) and value not in (None, {}, [], "", False):
                self._wrong(given, f"{where}: {key} is not read from there; remove it")
        if str(content.get("downcast_bf16", "no")).lower() not in ("no", *FALSE):
            self._wrong(given, f"{where}: downcast_bf16 is of TPUs, which are not in this version; remove it")
        if content.get("use_cpu") is True:
            self._fill("use_cpu", True, given, where)
        precision = str(content.get("mixed_precision", "no")).lower()
        if precision in ("bf16", "fp16"):
            self._fill_precision(precision, given, where)
        elif precision not in ("no", "none", *FALSE):
            self._wrong(given, f"{where}: mixed_precision: {precision} is not in this version; write bf16")
        launches = [key for key in _LAUNCHES if key in content]
        if launches:
            self.notes.append(
                f"{where}: {', '.join(launches)} have nothing to do here: hone train starts a process a GPU, and NPROC_PER_NODE, "
                "NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT say otherwise"
            )
        self._put("fsdp_config", dict(content.get("fsdp_config") or {}), given)
        self._fill("fsdp", ("true",), given, where)

    def _fill_precision(self, precision: str, given: Given, where: str) -> None:
        other = "fp16" if precision == "bf16" else "bf16"
        if not any(self._settings[key] for key in ("bf16", "fp16", "pure_bf16")):
            self._fill(precision, True, given, where)
        elif self._settings[other]:
            self._wrong(given, f"{where}: mixed_precision: {precision}, and {other} is written; remove one of them")

    def _fill(self, key: str, value: Any, given: Given, where: str) -> None:
        self._settings.given.setdefault(key, Given(value, given.where, f"{key} of {where}", given.rank))

    def _put(self, key: str, value: Any, given: Given) -> None:
        self._settings.given[key] = Given(value, given.where, given.written, given.rank)

    def _wrong(self, given: Given, message: str) -> None:
        self.mistakes.append(Mistake(given.where, "fsdp_config", message))
