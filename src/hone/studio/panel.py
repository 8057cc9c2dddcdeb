"""The panel: the settings of a talk, of which each holds from the next answer on.

Does not know what becomes of them.
"""

from __future__ import annotations

from hone.serving.desk import Desk
from hone.studio.talk import Wishes
from hone.studio.web import ui

THINKS = {None: "as the server was started", True: "yes", False: "no"}
LOOKS = "outlined dense stack-label"
TOOLS = '[{"name": "...", "description": "...", "parameters": {...}}]'


def build_panel(desk: Desk, wishes: Wishes) -> ui.right_drawer:
    """The drawer with a field a wish, where the server has it."""
    engine, limits = desk.served.engine, desk.terms.limits
    assert engine is not None, "a page is built for a model that writes"
    with ui.right_drawer(value=None, bottom_corner=True).props("bordered width=320 breakpoint=1100").classes("gap-3") as drawer:
        if len(desk.names) > 1:
            ui.select(list(desk.names), label="Model").props(LOOKS).classes("w-full").bind_value(wishes, "model")
        _text("System prompt", "system", wishes, "the chat format's own, where it has one")
        with ui.grid(columns=2).classes("w-full gap-x-3"):
            _number("Temperature", "temperature", wishes, least=0, most=2, step=0.05)
            _number("Top-p", "top_p", wishes, least=0.01, most=1, step=0.05)
            _number("Longest answer", "max_new_tokens", wishes, least=1, most=limits.api_max_tokens, step=1, suffix="tokens")
            _number("Seed", "seed", wishes, least=0, most=2**53, step=1, placeholder="random")
        if engine.thinks_on_demand:
            ui.select(THINKS, label="Think before the answer").props(LOOKS).classes("w-full").bind_value(wishes, "thinks")
        _text("Tools (JSON)", "tools", wishes, TOOLS)
    return drawer


def _text(label: str, name: str, wishes: Wishes, placeholder: str) -> None:
    box = ui.textarea(label, placeholder=placeholder).props(f"{LOOKS} autogrow").classes("w-full")
    box.props('input-style="max-height: 14rem"').bind_value(wishes, name)


def _number(
    label: str,
    name: str,
    wishes: Wishes,
    *,
    least: float,
    most: float,
    step: float,
    suffix: str | None = None,
    placeholder: str = "the server's",
) -> None:
    box = ui.number(label, min=least, max=most, step=step, suffix=suffix, placeholder=placeholder)
    box.props(LOOKS).bind_value(wishes, name)
