"""The other hubs: a model's files fetched from ModelScope or Modelers into a folder, through their own packages.

Does not know what the files hold; Hugging Face's hub is reached where its files are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

from hone.config.model import ModelConfig
from hone.errors import MissingExtra, ModelError
from hone.models.catalog import HUBS

LOCKS = "~/.cache/hone/locks"
_SWITCHES = {"ms": "USE_MODELSCOPE_HUB", "om": "USE_OPENMIND_HUB"}
_UNREAD = ["*.gguf", "*.ggml", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.pth"]
"""Files that many repositories hold beside the model's own and that nothing here reads."""
_WEIGHTS = ["*.safetensors", "*.bin", "*.pt"]


def fetch(model: ModelConfig, place: str, hub: str, *, weights: bool) -> Path:
    """The local folder of model `place` of hub "ms" or "om"; without `weights` its small files alone are fetched.

    model_revision main is ModelScope's master. Raises: MissingExtra without the hub's package; ModelError where it refuses.
    """
    branch = "master" if hub == "ms" and model.model_revision == "main" else model.model_revision
    token = model.ms_hub_token if hub == "ms" else model.om_hub_token
    return _fetch(hub, place, branch, model.cache_dir, token, weights)


@cache
def _fetch(hub: str, place: str, revision: str, cache_dir: str | None, token: str | None, weights: bool) -> Path:
    download = _downloader(hub, place)
    ignored = _UNREAD if weights else [*_UNREAD, *_WEIGHTS]
    locks = Path(LOCKS).expanduser()
    locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{hub} {place} {cache_dir}".encode()).hexdigest()[:16]
    with FileLock(locks / f"{name}.lock"):  # the processes of a run ask at once; the first one downloads
        try:
            return Path(download(place, revision=revision, cache_dir=cache_dir, token=token, ignore_patterns=ignored))
        except Exception as problem:  # the packages raise errors of several libraries
            said = " ".join(str(problem).split())[:500] or type(problem).__name__
            raise ModelError(
                f"{place} cannot be had from {HUBS[hub]}: {said}\ncheck the spelling (`hone models WORD` shows ids) and the "
                f"network; a private model needs {hub}_hub_token; without {_SWITCHES[hub]} models come from Hugging Face"
            ) from problem


def _downloader(hub: str, place: str) -> Callable[..., str]:
    """`snapshot_download` of the hub's own package."""
    why = f"{_SWITCHES[hub]} ({place})"
    if hub == "ms":
        try:
            from modelscope import snapshot_download
        except ImportError as error:
            raise MissingExtra("modelscope", "modelscope", why) from error
        return snapshot_download
    try:
        from openmind_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("openmind_hub", "openmind", why) from error
    return snapshot_download
