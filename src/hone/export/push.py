"""An exported folder brought to a hub, Hugging Face's or ModelScope.

Does not know what the folder holds; nothing is sent but by export_hub_model_id.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError

from hone import log
from hone.config.environment import read_environment
from hone.config.model import ModelConfig
from hone.errors import ExportError
from hone.export.folder import REPORT
from hone.models.hubs import send_model


def push(folder: Path, place: str, model: ModelConfig, *, private: bool | None) -> None:
    """Send every file of `folder` to `place` ("you/name") on the hub in use, which makes it where it is not there.

    The report stays here: it names folders of this machine. Raises: ExportError, and the folder is then as complete as before.
    """
    hub = read_environment()[0].hub
    try:
        if hub == "ms":
            address = send_model(folder, place, token=model.ms_hub_token, private=bool(private), leave_out=[REPORT])
        elif hub == "hf":
            api = HfApi(token=model.hf_hub_token)
            place = api.create_repo(place, private=private, exist_ok=True).repo_id
            message = f"{folder.name}, written by hone"
            address = api.upload_folder(
                repo_id=place, folder_path=folder, commit_message=message, ignore_patterns=[REPORT]
            ).commit_url
        else:
            raise ExportError("export_hub_model_id: nothing is sent to Modelers; unset USE_OPENMIND_HUB")
    except (HTTPError, HFValidationError, OSError) as fault:  # HTTPError: also of a hub that is not reached
        said = " ".join(str(fault).split())[:500] or type(fault).__name__
        again = shlex.join(["hf", "upload", place, str(folder), "--exclude", REPORT])
        raise ExportError(
            f"{folder} is complete and was not sent to {place}: {said}. Sending needs the network and a token that may write "
            f"(hf_hub_token, or `hf auth login`); send it again with `{again}`"
        ) from fault
    log.info(f"{folder} is on the hub: {address}")
