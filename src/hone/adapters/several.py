"""Several adapters on one base, of which each row of a batch takes its own, or none; put on and taken off while it is in use.

Does not know who asks, nor what a row is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hone.adapters.folder import AdapterFolder
from hone.adapters.targets import check_fit
from hone.adapters.unquantized import without_bitsandbytes
from hone.errors import ModelError
from hone.kernels.tolerance import rounding_of

with without_bitsandbytes():
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

BASE = "__base__"
"""peft's name for no adapter."""


class Several:
    """`several.add("law", folder)`; `with several.rows(["law", ""]): module(...)`, where "" is the base.

    module: a causal model in evaluation mode, changed in place; outside `rows` it computes as the base. Names are free.
    """

    def __init__(self, module: nn.Module, base_name: str):
        if any(isinstance(inner, BaseTunerLayer) for inner in module.modules()):
            raise ModelError(
                "api_adapters: the base in few bits carries an adapter (adapter_name_or_path) that is not merged; name all "
                "of them in api_adapters"
            )
        self._module, self._base_name = module, base_name
        self._tuned: PeftModel | None = None
        self._inside: dict[str, str] = {}
        self._made = 0
        self._rows: list[str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters, in the order in which they came."""
        return tuple(self._inside)

    @without_bitsandbytes()
    def add(self, name: str, folder: AdapterFolder) -> None:
        """Put an adapter on. Raises: ModelError where it does not fit, or rows of a batch cannot differ by it."""
        require_plain(folder)
        check_fit(self._module, folder, self._base_name)
        inner = f"adapter_{self._made}"  # a name of the user's may hold dots, which modules' names may not
        self._made += 1
        where = {"adapter_name": inner, "is_trainable": False, "autocast_adapter_dtype": False}
        if self._tuned is None:
            self._tuned = PeftModel.from_pretrained(self._module, str(folder.path), **where)
        else:
            self._tuned.load_adapter(str(folder.path), **where)
        self._module.requires_grad_(False).eval()
        for layer in self._layers():
            if not layer.__dict__.get("_hone_rows"):
                layer._hone_rows = True
                layer.register_forward_pre_hook(self._tell, with_kwargs=True)
        self._inside[name] = inner
        if why := self._differs(name):
            self.remove(name)
            raise ModelError(f"{folder.path} cannot be one of several adapters: {why}; serve it alone (adapter_name_or_path)")

    def remove(self, name: str) -> None:
        """Take an adapter off; no row may be computed with it any more."""
        assert self._tuned is not None, "an adapter that was never put on"
        self._tuned.delete_adapter(self._inside.pop(name))

    @contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[None]:
        """While it is held, row i of a forward is computed with the adapter `names[i]`."""
        self._rows = [self._inside[name] if name else BASE for name in names]
        try:
            yield
        finally:
            self._rows = None

    def _layers(self) -> list[nn.Module]:
        return [inner for inner in self._module.modules() if isinstance(inner, BaseTunerLayer)]

    def _tell(self, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = inputs[0] if inputs else named["x"]
        return inputs, {**named, "adapter_names": [BASE] * len(x) if self._rows is None else self._rows}

    def _differs(self, name: str) -> str:
        """What is wrong with rows of this adapter beside others; "" where nothing is. Milliseconds, on a few tokens."""
        try:
            with self.rows([name]):
                alone_V = self._logprobs(1)[0]
            with self.rows(["", name, ""]):
                beside_V = self._logprobs(3)[1]
        except (RuntimeError, ValueError, TypeError, IndexError) as problem:
            return f"its layers do not tell the rows apart ({problem})"
        difference = float((alone_V - beside_V).abs().max())
        largest = rounding_of(self._module.get_input_embeddings().weight.dtype)
        return "" if difference <= largest else f"a difference of {difference:.2g} in a trial"

    @torch.inference_mode()
    def _logprobs(self, num: int) -> Tensor:
        """fp32 [num, V] behind the same few tokens in each row."""
        size = self._module.get_input_embeddings().weight.shape[0]
        ids_1T = torch.arange(1, 6, device=self._module.device).unsqueeze(0) * 7919 % size
        logits_BTV = self._module(input_ids=ids_1T.repeat(num, 1), use_cache=False).logits
        return torch.log_softmax(logits_BTV[:, -1].float(), dim=-1)


def require_plain(folder: AdapterFolder) -> None:
    """ModelError for adapters that rows of one batch cannot have each for itself."""
    config, alone = folder.config, "serve it alone (adapter_name_or_path)"
    if folder.kind != "lora":
        raise ModelError(f"{folder.path} is an adapter of type {folder.kind.upper()}, of which one batch holds one; {alone}")
    if config.get("use_dora"):
        raise ModelError(f"{folder.path} was trained with use_dora, which scales the base's own weights; {alone}")
    if whole := config.get("modules_to_save"):
        raise ModelError(f"{folder.path} brings modules of its own ({', '.join(whole)}) in place of the base's; {alone}")
