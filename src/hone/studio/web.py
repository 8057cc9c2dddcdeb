"""The one door to NiceGUI, which the extra `webchat` brings.

Does not know what the pages show.
"""

from __future__ import annotations

from hone.errors import MissingExtra

try:
    from nicegui import Client, app, background_tasks, core, events, ui
except ModuleNotFoundError as fault:
    raise MissingExtra(fault.name or "nicegui", "webchat", "hone webchat") from fault

__all__ = ["Client", "app", "background_tasks", "core", "events", "ui"]
