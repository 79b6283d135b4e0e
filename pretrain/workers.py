"""Runs shared out among worker processes, with one progress bar."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

from tqdm import tqdm

from configs.errors import InputError
from configs.schema import Experiment
from pretrain.backend import backend_log, start_backend
from pretrain.devices import take_devices
from pretrain.divergence import Diverged

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]
Work = Callable[[Experiment, Any, Advance], str]


def share_out(
    work: Work,
    experiment: Experiment,
    items: Sequence[Any],
    *,
    steps: int,
    workers: int,
    label: str,
    unit: str = "step",
) -> None:
    """Do `work` on every item, in the order given, by so many processes at a time.

    What an item yields does not depend on the number of workers or on who does it: each
    worker computes on one core, because TensorFlow's sums depend on the number of threads.

    Parameters
    ----------
    work : callable
        From the experiment, an item and a function that reports steps done, to a line that
        says what was done. A function of a module.
    experiment : Experiment
        Handed to every call.
    items : sequence
        What to work on; picklable.
    steps : int
        Steps of all items together.
    workers : int
        Processes; 1 works in a single child process.
    label : str
        What the progress bar says.
    unit : str
        What a step is called.

    Raises
    ------
    InputError
        What `work` raised, or if a worker died; after all other items, if `work` raised
        `Diverged` for some.
    """
    if not items:
        return
    context = multiprocessing.get_context("spawn")
    waiting: Queue[Any] = context.Queue()
    said: Queue[Any] = context.Queue()
    workers = min(workers, len(items))
    for item in items:
        waiting.put(item)
    for _ in range(workers):
        waiting.put(None)
    # By its name, so that a worker watches its parent before it imports TensorFlow.
    name = (work.__module__, work.__name__)
    processes = [
        context.Process(target=_worker, args=(i, name, experiment, waiting, said))
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    started, finished = time.monotonic(), 0
    diverged: list[str] = []
    try:
        with tqdm(total=steps, desc=label, unit=f" {unit}", smoothing=0.05) as bar:
            while finished < workers:
                try:
                    kind, value = said.get(timeout=1.0)
                except Empty:
                    dead = [p for p in processes if p.exitcode not in (None, 0)]
                    if dead:
                        raise InputError(
                            f"{label}: a worker process died (exit code {dead[0].exitcode}); "
                            "run the same command again to go on from the last checkpoint"
                        ) from None
                    continue
                if kind == "steps":
                    bar.update(value)
                elif kind == "done":
                    logger.debug("%s", value)
                elif kind == "diverged":
                    diverged.append(value)
                    logger.debug("diverged: %s", value)
                elif kind == "bad input":
                    raise InputError(value)
                elif kind == "error":
                    raise RuntimeError(value)
                else:
                    finished += 1
    finally:
        for process in processes:
            if finished < workers:
                process.kill()
            process.join()
        # Items that no worker is left to take would keep this process from ending.
        waiting.cancel_join_thread()
    seconds = time.monotonic() - started
    logger.info("%s: %d items, %.0f s", label, len(items), seconds)
    if diverged:
        named = "; ".join(sorted(diverged)[:5]) + ("; ..." if len(diverged) > 5 else "")
        raise InputError(
            f"{label}: {len(diverged)} of {len(items)} runs diverged ({named})"
            ", all others are done; run the same command again to go on without them, remove a "
            "run's diverged.json to train it on from its last good checkpoint, or lower the "
            "learning rate in another output folder"
        )


def _worker(
    number: int,
    name: tuple[str, str],
    experiment: Experiment,
    waiting: Queue[Any],
    said: Queue[Any],
) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        start_backend(backend_log(experiment.output), for_good=True)
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.experimental.enable_op_determinism()
        take_devices(number)
        work: Work = getattr(importlib.import_module(name[0]), name[1])
        while (item := waiting.get()) is not None:
            try:
                said.put(("done", work(experiment, item, lambda n: said.put(("steps", n)))))
            except Diverged as diverged:
                said.put(("diverged", str(diverged)))
        said.put(("end", None))
    except InputError as error:
        said.put(("bad input", error.message))
    except Exception:
        said.put(("error", traceback.format_exc()))


def end_with_parent() -> None:
    """End this process as soon as its parent has, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
