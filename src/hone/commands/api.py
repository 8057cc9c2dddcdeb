"""hone api: serve a model by OpenAI's protocol.

Holds no logic: it reads settings and environment, and only then imports what answers, so that a mistake in them is told at once.
"""

from __future__ import annotations

from pathlib import Path

from hone import log
from hone.config import Run, load
from hone.config.environment import ApiEnvironment, read_api_environment
from hone.errors import HoneError, at_once
from hone.serving.app import Site, build_app
from hone.serving.asked import Terms
from hone.serving.desk import Served, Vectors
from hone.serving.server import open_socket, serve
from hone.table import Table

_LATER = Table(
    "step",
    {
        "names": "hone.inference.names:looks",
        "folders": "hone.adapters.folder:folders_of",
        "head": "hone.models.value_head:find_value_head",
        "learned_by": "hone.models.value_head:learned_by",
        "gguf": "hone.inference.llamacpp:find_gguf",
        "embedder": "hone.inference.embed:build_embedder",
        "scorer": "hone.inference.score:build_scorer",
        "engine": "hone.inference.build:build_engine",
    },
)

ROOM = 8
"""Adapters that may come by api_adapter_folder at a server that must know before how many; others wait for their turn."""


def main(arguments: list[str]) -> int:
    """`hone api run.yaml [key=value ...]`; serves until it is told to stop, and then finishes what it has begun."""
    return serve_run(load(arguments, "api"), read_api_environment())


def serve_run(run: Run, told: ApiEnvironment, *, site: Site | None = None) -> int:
    """Serve the run's model, with the pages of a site beside the API. Raises: HoneError where pages have nobody to answer."""
    limits = run.api.model_copy(update={"api_media_folder": told.media_folder_with(run.api.api_media_folder)})
    with open_socket(told.host, told.port, key=told.key) as socket:
        served = load_served(run, told.name, num_together=told.num_running)
        if site is not None and served.engine is None:
            raise HoneError(f"{run.model.model_name_or_path} gives vectors or scores and no answers; hone api serves it")
        if limits.api_media_folder is not None and (served.engine is None or not served.engine.media):
            log.info("api_media_folder has nothing to do here: the model takes text alone")
        num_running = served.engine.num_together if served.engine is not None else 1
        terms = Terms(run.generate, limits)
        app = build_app(served, terms, key=told.key, num_running=num_running, root_path=told.root_path, site=site)
        page = site.pages.root if site is not None else ""
        serve(app, socket, name=told.name, seconds=run.api.api_timeout, tells=told.tells, page=page)
    return 0


def load_served(run: Run, name: str, *, num_together: int = 1) -> Served:
    """The run's model under `name`, with what it can do: vectors, scores or answers, `num_together` of them at once."""
    numbers = {"dtype": run.serve.infer_dtype, "length": run.data.cutoff_len}
    at_once(_LATER.load("names")(run.chat, run.adapter, run.api.adapters.values()))
    adapters = _LATER.load("folders")(run.adapter)
    if any((folder / "modules.json").is_file() for folder in (Path(run.model.model_name_or_path), *adapters)):
        embedder = _LATER.load("embedder")(run.model, run.adapter, **numbers)
        return Served(name, embed=lambda texts, query: Vectors(*embedder.embed_counted(texts, query=query)))
    file = _LATER.load("gguf")(run.model, run.serve.infer_backend)
    head = None if file else _LATER.load("head")(run.model, adapters)
    if head is not None and (_LATER.load("learned_by")(head) == "reward" or run.objective.kind == "reward"):
        scorer = _LATER.load("scorer")(run.model, run.chat, run.adapter, **numbers)
        return Served(name, score=lambda texts, limit: scorer.score_texts(texts, limit=limit))
    beside = len(run.api.api_adapters) + (ROOM if run.api.api_adapter_folder else 0)
    together = {"num_together": num_together, "num_adapters": beside}
    engine = _LATER.load("engine")(run.model, run.chat, run.adapter, serve=run.serve, length=run.data.cutoff_len, **together)
    for named, folder in run.api.adapters.items():
        engine.add_adapter(named, folder)
    return Served(name, engine=engine)
