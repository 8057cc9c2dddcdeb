"""Names that every use of a model may hold: of a chat format, a way of tool calls, and adapters, each looked up by itself.

Does not know the model, nor loads anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from hone.adapters.folder import folders_of, locate
from hone.chat.dialects.table import find_dialect
from hone.chat.table import find
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig


def looks(chat: ChatConfig, adapter: Adapter, beside: Iterable[str] = ()) -> Iterator[Callable[[], object]]:
    """Each raises where nothing has the name; for `errors.at_once`. beside: folders of adapters that requests may name."""
    if chat.template is not None:
        yield partial(find, chat.template)
    if chat.tool_format is not None:
        yield partial(find_dialect, chat.tool_format)
    yield partial(folders_of, adapter)
    yield from (partial(locate, name, key="api_adapters") for name in beside)
