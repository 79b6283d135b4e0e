"""Worker processes: one way to start them, three ways to share work out among them.

A worker is a new Python process (spawned, as a fork of a process with threads can hang). It ends as
soon as its parent has ended, however that happened. It ignores Ctrl-C and SIGTERM, which a terminal
or a scheduler may send to every process of a command: the parent alone reacts, and ends its workers
(`configs.interruption`).

`Workers.map` gives results in the order of the items, `results_as_completed` as soon as they are
there, and `messages_from` runs one long function a worker and passes on what it sends.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from queue import Empty
from types import TracebackType
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from configs.errors import InputError

WORTH_STARTING = 5.0
"""Seconds of work for which `Workers` starts processes; their start takes about two."""

_SIGNALS_OF_PARENT = (signal.SIGINT, signal.SIGTERM)

Item = TypeVar("Item")
Result = TypeVar("Result")
Send = Callable[[Any], None]


class WorkerProcess(multiprocessing.context.SpawnProcess):
    """A process that ends with its parent, and leaves signals that end a command to it."""

    def start(self) -> None:
        """Start the process with the parent's signals blocked: it inherits that."""
        # Starting the tracker would unblock them again.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_PARENT)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        """Work, in the new process."""
        for number in _SIGNALS_OF_PARENT:
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        super().run()

    def terminate(self) -> None:
        """Kill the process; a pool that is broken ends its other processes by this method."""
        self.kill()


class _WorkerContext(multiprocessing.context.SpawnContext):
    """What Python's pools and queues take their processes from."""

    Process = WorkerProcess


_CONTEXT = _WorkerContext()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def kill_workers() -> None:
    """Kill every worker process that this process has started, and wait for its end."""
    workers = [
        process
        for process in multiprocessing.active_children()
        if isinstance(process, WorkerProcess)
    ]
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


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
            _shut_down(self._pool, error)
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
            self._pool = ProcessPoolExecutor(self.processes, _CONTEXT)
        waiting: deque[Future[Result]] = deque()
        try:
            with _named_death(
                "a worker process died, perhaps for want of memory; run the same command with "
                "--processes 1"
            ):
                for item in items:
                    # One more than there are processes, so that none waits for its next item.
                    if len(waiting) > self.processes:
                        yield waiting.popleft().result()
                    waiting.append(self._pool.submit(_in_worker, function, item))
                while waiting:
                    yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def results_as_completed(
    make: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    processes: int,
    *,
    name: str,
) -> Iterator[tuple[Item, Result]]:
    """Apply a function, which may keep something between items, to every item.

    Parameters
    ----------
    make : callable
        Makes the function, once in every process; picklable.
    items : sequence
        What to apply it to.
    processes : int
        How many processes work; with 1 all work is done in this one.
    name : str
        What a message about a worker that died begins with.

    Yields
    ------
    (object, object)
        Each item and its result, as soon as it is there.

    Raises
    ------
    InputError
        If a worker process died.
    """
    if processes < 2:
        function = make()
        for item in items:
            yield item, function(item)
        return
    pool = ProcessPoolExecutor(processes, _CONTEXT, initializer=_make, initargs=(make,))
    try:
        with _named_death(
            f"{name}: a worker process died, perhaps for want of memory; run the same command "
            "again to go on after what is finished"
        ):
            futures = {pool.submit(_apply_made, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
    finally:
        _shut_down(pool, sys.exc_info()[1])


def messages_from(
    function: Callable[..., None], arguments: Sequence[tuple[Any, ...]], *, name: str
) -> Generator[Any, None, None]:
    """Run a function in several processes at a time, and pass on the messages that it sends.

    When the iterator is closed before its end, the processes are killed.

    Parameters
    ----------
    function : callable
        Of a module; called with a function that sends a message (anything picklable), and the
        arguments.
    arguments : sequence of tuple
        The arguments in each process.
    name : str
        What a message about a worker that died begins with.

    Yields
    ------
    object
        The messages, those of one process in their order; until all processes have returned.

    Raises
    ------
    InputError
        What `function` raised, or if a worker process died.
    RuntimeError
        If `function` raised anything else; with its traceback.
    """
    queue: Queue[tuple[str, Any]] = _CONTEXT.Queue()
    started: list[WorkerProcess] = []
    running = len(arguments)
    try:
        for each in arguments:
            process = WorkerProcess(target=_send_messages, args=(queue, function, each))
            process.start()
            started.append(process)
        while running:
            try:
                kind, value = queue.get(timeout=1.0)
            except Empty:
                dead = [worker for worker in started if worker.exitcode not in (None, 0)]
                if dead:
                    raise InputError(
                        f"{name}: a worker process died (exit code {dead[0].exitcode}); "
                        "run the same command again to go on from the last checkpoint"
                    ) from None
                continue
            if kind == "message":
                yield value
            elif kind == "refused":
                raise InputError(value)
            elif kind == "failed":
                raise RuntimeError(value)
            else:
                running -= 1
    finally:
        for worker in started:
            if running:
                worker.kill()
            worker.join()


@contextmanager
def _named_death(message: str) -> Iterator[None]:
    """Put a message in the place of the error by which a pool reports a worker that died."""
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(message) from error


def _shut_down(pool: ProcessPoolExecutor, error: BaseException | None) -> None:
    """End a pool: at once where the command is interrupted, else after the items under way."""
    if error is not None and not isinstance(error, Exception):
        kill_workers()
    pool.shutdown(cancel_futures=True)


# What follows runs in workers.


def _send_messages(
    queue: Queue[tuple[str, Any]], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    try:
        function(lambda message: queue.put(("message", message)), *arguments)
        queue.put(("ended", None))
    except InputError as error:
        queue.put(("refused", error.message))
    except Exception:
        queue.put(("failed", traceback.format_exc()))


_made: Callable[[Any], Any]


def _make(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _made
    # There is a worker for every core already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _made = make()


def _apply_made(item: Any) -> Any:
    return _made(item)


def _in_worker(function: Callable[[Item], Result], item: Item) -> Result:
    # As many processes as cores read already; Zarr's threads would only wake each other. It is
    # not imported here, as training has no use for it.
    zarr = sys.modules.get("zarr")
    if zarr is not None:
        zarr.config.set({"threading.max_workers": 1})
    return _in_one_thread(function, item)


def _in_one_thread(function: Callable[[Item], Result], item: Item) -> Result:
    with _libraries(function).limit(limits=1):
        return function(item)


@lru_cache
def _libraries(function: Callable[[Any], Any]) -> ThreadpoolController:
    """Find the libraries that have threads, once the function's module has loaded them."""
    return ThreadpoolController()
