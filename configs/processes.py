"""Worker processes: how they start, share out work and end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, TypeVar

import zarr
from threadpoolctl import ThreadpoolController

from configs.errors import InputError


def end_with_parent() -> None:
    """End this process as soon as its parent has, however that ended; for a thread to run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


WORTH_STARTING = 5.0
"""Seconds of work for which processes are started; their start takes about two."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Worker processes, started when a step is long enough; a context manager.

    The results are the same for any number of processes: every item is worked on by one thread,
    and results come in the order of the items.

    Parameters
    ----------
    processes : int
        How many processes work; with 1 all work is done in this one.
    """

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], seconds: float
    ) -> Iterator[Result]:
        """Apply a function to every item.

        Parameters
        ----------
        function : callable
            Of a module, as other processes have to find it.
        items : iterable
            Taken as workers become free.
        seconds : float
            Roughly how long all of it takes one process.

        Yields
        ------
        object
            What the function returns, in the order of the items.

        Raises
        ------
        InputError
            If a worker process died.
        """
        if self.processes < 2 or (self._pool is None and seconds < WORTH_STARTING):
            for item in items:
                yield _in_one_thread(function, item)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.processes,
                # A fork of a process with threads can hang.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
            )
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                # One more than there are processes, so that none waits for its next item.
                if len(waiting) > self.processes:
                    yield waiting.popleft().result()
                waiting.append(self._pool.submit(_in_one_thread, function, item))
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process died, perhaps for want of memory; run the same command with "
                "--processes 1"
            ) from error
        finally:
            for left in waiting:
                left.cancel()


def _in_one_thread(function: Callable[[Item], Result], item: Item) -> Result:
    with _libraries(function).limit(limits=1):
        return function(item)


@lru_cache
def _libraries(function: Callable[[Any], Any]) -> ThreadpoolController:
    """Find the libraries that have threads, once the function's module has loaded them."""
    return ThreadpoolController()


def _start() -> None:
    """Make this process a worker: it ends with its parent, which alone hears Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # As many processes as cores read already; their threads would only wake each other.
    zarr.config.set({"threading.max_workers": 1})
