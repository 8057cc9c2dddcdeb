"""The other hubs: a model's or data set's files fetched from ModelScope or Modelers into a folder, through their own packages.

Does not know what the files hold; Hugging Face's hub is reached where its files are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock

from hone.config.model import ModelConfig
from hone.errors import DataError, HoneError, MissingExtra, ModelError
from hone.models.catalog import HUBS

LOCKS = "~/.cache/hone/locks"
_SWITCHES = {"ms": "USE_MODELSCOPE_HUB", "om": "USE_OPENMIND_HUB"}
_UNREAD = ("*.gguf", "*.ggml", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.pth")
"""Files that many repositories hold beside the model's own and that nothing here reads."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def fetch_model(model: ModelConfig, place: str, hub: str, *, weights: bool) -> Path:
    """The local folder of model `place` of hub "ms" or "om"; without `weights` its small files alone are fetched.

    model_revision main is ModelScope's master. Raises: MissingExtra without the hub's package; ModelError where it refuses.
    """
    branch = "master" if hub == "ms" and model.model_revision == "main" else model.model_revision
    token = model.ms_hub_token if hub == "ms" else model.om_hub_token
    return _fetch(hub, "model", place, branch, model.cache_dir, token, _UNREAD if weights else _UNREAD + _WEIGHTS)


def fetch_dataset(place: str, hub: str, token: str | None = None) -> Path:
    """The local folder of data set `place` of hub "ms" or "om", its default branch. Raises as fetch_model."""
    return _fetch(hub, "dataset", place, None, None, token, ())


@cache
def _fetch(
    hub: str,
    kind: Literal["model", "dataset"],
    place: str,
    revision: str | None,
    cache_dir: str | None,
    token: str | None,
    ignored: tuple[str, ...],
) -> Path:
    download = _downloader(hub, place)
    locks = Path(LOCKS).expanduser()
    locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{hub} {kind} {place} {cache_dir}".encode()).hexdigest()[:16]
    settings = {"repo_type": kind, "revision": revision, "cache_dir": cache_dir, "token": token, "ignore_patterns": list(ignored)}
    with FileLock(locks / f"{name}.lock"):  # the processes of a run ask at once; the first one downloads
        try:
            return Path(download(place, **settings))
        except Exception as problem:  # the packages raise errors of several libraries
            said = " ".join(str(problem).split())[:500] or type(problem).__name__
            raise _refused(hub, kind, place, said) from problem


def _refused(hub: str, kind: str, place: str, said: str) -> HoneError:
    refused = f"{place} cannot be had from {HUBS[hub]}: {said}\ncheck the spelling and the network; "
    if kind == "dataset":
        return DataError(f"{refused}a private data set needs {hub}_hub_token, or the login of {HUBS[hub]}'s own package")
    return ModelError(
        f"{refused}`hone models WORD` shows ids, a private model needs {hub}_hub_token, and without {_SWITCHES[hub]} models come "
        "from Hugging Face"
    )


def _downloader(hub: str, place: str) -> Callable[..., str]:
    """`snapshot_download` of the hub's own package."""
    why = f"{place}, looked for on {HUBS[hub]},"
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


def send_model(folder: Path, place: str, *, token: str | None, private: bool, leave_out: list[str]) -> str:
    """Send a folder to ModelScope, as `place`; its address. Raises: MissingExtra; OSError where the hub refuses."""
    try:
        from modelscope.hub.api import HubApi
    except ImportError as error:
        raise MissingExtra("modelscope", "modelscope", f"sending {place} to {HUBS['ms']}") from error
    try:
        api = HubApi()
        if token:
            api.login(token)
        if not api.repo_exists(place):
            api.create_model(place, visibility=1 if private else 5)  # its numbers of private and public
        api.upload_folder(repo_id=place, folder_path=str(folder), commit_message="written by hone", ignore_patterns=leave_out)
    except Exception as problem:  # the package raises errors of several libraries
        raise OSError(" ".join(str(problem).split())[:500] or type(problem).__name__) from problem
    return f"https://modelscope.cn/models/{place}"
