"""hone webchat: talk to a model on a page in the browser, beside the API that hone api serves.

Holds no logic: it is hone api with a page.
"""

from __future__ import annotations

from hone.commands.api import serve_run
from hone.config import load
from hone.config.environment import read_api_environment
from hone.studio.site import ChatSite


def main(arguments: list[str]) -> int:
    """`hone webchat run.yaml [key=value ...]`; serves until it is told to stop, and then finishes what it has begun."""
    run, told = load(arguments, "webchat"), read_api_environment(pages=True)
    return serve_run(run, told, site=ChatSite())
