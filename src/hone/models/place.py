"""Where a model's files are, here or on which hub, and what to tell a user whose files are not there.

Does not know what the files hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers.utils import cached_file

from hone import log
from hone.config.environment import read_environment
from hone.config.model import ModelConfig
from hone.config.shards import about_shards, is_in_shards
from hone.errors import ModelError
from hone.models.catalog import HUBS, model_catalog
from hone.models.hubs import fetch_model


def settle(model: ModelConfig, *, weights: bool = False) -> ModelConfig:
    """The settings with model_name_or_path a local folder or an id on Hugging Face, which transformers can read.

    A name of the catalogue, or an id that the catalogue knows from another hub, becomes the id on the hub in use; from another
    hub than Hugging Face the files are fetched (the small ones alone without `weights`). Raises ModelError, MissingExtra.
    """
    place, hub = hub_name(model), read_environment()[0].hub
    if hub != "hf" and not is_local(place):
        place = str(fetch_model(model, place, hub, weights=weights))
    return model if place == model.model_name_or_path else model.model_copy(update={"model_name_or_path": place})


def hub_name(model: ModelConfig) -> str:
    """What the model is called on the hub in use; a local folder, or what the catalogue does not know, is as it was written."""
    place, hub = model.model_name_or_path, read_environment()[0].hub
    entry = None if is_local(place) else model_catalog().find(place)
    if entry is None or place.lower() == entry.ids.get(hub, "").lower():
        return place
    if hub in entry.ids:
        log.once(f"{place} is {entry.ids[hub]} on {HUBS[hub]}")
        return entry.ids[hub]
    if place.lower() != entry.name.lower():
        return place  # an id: the hub may know it though the catalogue does not
    elsewhere = " or ".join(f"{place} on {HUBS[other]}" for other, place in entry.ids.items())
    raise ModelError(
        f"model_name_or_path: the catalogue knows no id of {place} on {HUBS[hub]}, the hub in use; it is {elsewhere}: set or "
        "unset USE_MODELSCOPE_HUB or USE_OPENMIND_HUB, or write an id or a folder"
    )


def hub_arguments(model: ModelConfig) -> dict[str, Any]:
    """What every `from_pretrained` needs to find the files and may run."""
    return {
        "revision": model.model_revision,
        "cache_dir": model.cache_dir,
        "token": model.hf_hub_token,
        "trust_remote_code": model.trust_remote_code,
    }


def is_local(place: str) -> bool:
    """Whether `place` means a folder, present or missing, rather than an id on the hub (one name, or owner/name)."""
    return Path(place).is_dir() or place.startswith((".", "/", "~")) or place.count("/") > 1 or "\\" in place


def check_folder(place: str, needed: tuple[str, ...], what: str) -> None:
    """Raise ModelError where `place` is a local folder that is missing or holds none of the `needed` files."""
    if not is_local(place):
        return
    folder = Path(place)
    if not folder.is_dir():
        seen = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"model_name_or_path: {place} {seen}; name a folder that holds a model, or an id on the hub (owner/name)"
        )
    if any((folder / name).is_file() for name in needed):
        return
    held = sorted(path.name for path in folder.iterdir())[:12]
    hint = ""
    if (folder / "adapter_config.json").is_file():
        hint = "; it is an adapter: put it under adapter_name_or_path, and its base under model_name_or_path"
    if is_in_shards(folder):
        hint = f"; {about_shards(place)}"
    raise ModelError(f"{place} holds no {what} ({' or '.join(needed)}); it holds {', '.join(held) or 'nothing'}{hint}")


def check_hub(model: ModelConfig, what: str) -> None:
    """Raise ModelError where a hub id cannot be reached or is not there: once, before each file is asked for by itself."""
    place = model.model_name_or_path
    if is_local(place):
        return
    try:
        hf_hub_download(place, "config.json", revision=model.model_revision, cache_dir=model.cache_dir, token=model.hf_hub_token)
    except LocalEntryNotFoundError as problem:  # no network, nothing kept
        raise explain(place, what, problem) from problem
    except EntryNotFoundError:
        return  # the repository is there; a tokenizer may come without a config
    except (HfHubHTTPError, HFValidationError, OSError) as problem:
        raise explain(place, what, problem) from problem


def find_file(model: ModelConfig, name: str, *, reach: bool = True) -> Path | None:
    """One file of the model, fetched from the hub where need be; None where the model has none of that name.

    reach: a hub that cannot be reached is an error (OSError); else that is None too.
    """
    arguments = hub_arguments(model)
    arguments.pop("trust_remote_code")
    arguments |= {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": reach}
    path = cached_file(model.model_name_or_path, name, **arguments)
    return None if path is None else Path(path)


def explain(place: str, what: str, problem: Exception) -> ModelError:
    """The error for a `from_pretrained` that failed: our words first, the library's first lines after."""
    if is_local(place):
        return ModelError(f"the {what} in {place} cannot be read: {_first_lines(problem)}")
    return ModelError(
        f"the {what} of {place} cannot be had: there is no such folder here, and the hub said: {_first_lines(problem)}\n"
        "check the spelling and the network; a private or gated model needs hf_hub_token or `hf auth login`"
    )


def _first_lines(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines[:3])[:500] or type(problem).__name__
