"""Settings of `hone api`: what one request may ask, and how many may wait.

Does not know the protocol. Address, key and name are of the environment.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class ApiConfig(Section):
    """What `hone api` gives one request, and how many may wait; address, key and name are in the environment (API_HOST ...)."""

    api_max_tokens: int = knob(
        8192,
        "Longest answer that a request may ask for; max_new_tokens is the length of those that do not say.",
        unit="tokens",
        gt=0,
    )
    api_max_choices: int = knob(16, "Most answers to one request (n, times the prompts of a completion).", gt=0)
    api_max_messages: int = knob(1024, "Most messages in one conversation, and texts in one list.", gt=0, level="advanced")
    api_max_body: float = knob(4.0, "Largest body of a request. Raise it for very long texts.", unit="MB", gt=0, level="advanced")
    api_max_waiting: int = knob(
        64, "Requests that wait for their turn; further ones are answered 429 with the time after which to try again.", ge=0
    )
    api_timeout: float = knob(
        600.0,
        "Longest time from a request's arrival to the end of its answer, waiting included. What takes longer is stopped and "
        "answered 503 or 504. Also how long a server that is told to stop waits for the answers it has begun.",
        unit="seconds",
        gt=0,
    )
    api_adapters: tuple[str, ...] = knob(
        (),
        "LoRA adapters that are served beside the base, each for the requests that write its name as model, with commas between "
        "them: NAME=FOLDER. They share the base's weights and are drawn in one batch with it; adapter_name_or_path is merged "
        "into the base before.",
        example="law=saves/law,poems=saves/poems",
    )
    api_adapter_folder: str | None = knob(
        None,
        "Folder of whose adapters POST /v1/load_lora_adapter may take one in while the server runs. Left out, it takes in none.",
        level="advanced",
        example="saves",
    )
    api_max_media: int = knob(16, "Most pictures, films and sounds in one request.", gt=0)
    api_max_media_size: float = knob(
        20.0,
        "Most that the pictures, films and sounds of one request may take together. Where the model takes any, those within the "
        "body (data: URLs) are allowed beside api_max_body.",
        unit="MB",
        gt=0,
    )
    api_max_pixels: int = knob(
        40_000_000, "Most pixels of a picture in a request; a small file may hold very many.", unit="pixels", gt=0
    )
    api_media_urls: Literal["none", "https", "http"] = knob(
        "https",
        "URLs from which pictures, films and sounds of a request are fetched: none, https, or http too. Only from public "
        "addresses: never from this machine or its networks, also not by a redirect.",
    )
    api_media_timeout: float = knob(
        15.0, "Longest time in which all files that one request names by URL are fetched.", unit="seconds", gt=0, level="advanced"
    )
    api_media_folder: str | None = knob(
        None,
        "Folder of this machine under which a request may name a picture, film or sound by its path; links that lead out of it "
        "are refused. Left out, no file is opened. SAFE_MEDIA_PATH is LLaMA-Factory's word for it.",
        example="data/media",
    )
    api_cors_origins: tuple[str, ...] = knob(
        (),
        "Web pages of other origins whose scripts may ask this server, with commas between them; * is every page. None where "
        "left out.",
        example="https://chat.example.org",
    )

    @property
    def adapters(self) -> dict[str, str]:
        """The folder of each adapter that requests may name, by its name."""
        return dict(pair.split("=", 1) for pair in self.api_adapters)
