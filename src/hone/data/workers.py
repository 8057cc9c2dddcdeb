"""Workers: the same work on chunk after chunk, in this process or in several, with results in order and few of them in memory.

Does not know what the work is.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from hone import log

_work: list[Callable[[Any], Any]] = []
"""In a worker process: the one function it was forked with."""


def in_order(work: Callable[[Any], Any], chunks: Iterable[Any], num_workers: int) -> Iterator[Any]:
    """`work(chunk)` of each chunk, in order; chunks are taken as results are.

    Several processes are forked, so that `work` may hold what cannot be pickled; its results must be. Where a system cannot
    fork, this process does it all, and says so once.
    """
    if num_workers > 1 and "fork" not in multiprocessing.get_all_start_methods():
        log.once("preprocessing_num_workers: this system cannot fork; rows are encoded in one process")
        num_workers = 1
    if num_workers == 1:
        yield from map(work, chunks)
        return
    fork = multiprocessing.get_context("fork")
    waiting: deque[Future] = deque()
    with ProcessPoolExecutor(num_workers, mp_context=fork, initializer=_remember, initargs=(work,)) as pool:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_do, chunk))
                if len(waiting) > 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # a mistake found in one chunk does not wait for the others


def _remember(work: Callable[[Any], Any]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    _work.append(work)


def _do(chunk: Any) -> Any:
    return _work[0](chunk)
