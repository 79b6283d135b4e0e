"""Runs shared out among worker processes, with one progress bar."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

from tqdm import tqdm

from configs.errors import InputError, no_space
from configs.processes import end_with_parent
from configs.schema import Experiment
from pretrain.engine.devices import take_devices
from pretrain.engine.divergence import Diverged
from pretrain.jobs.backend import backend_log, start_backend
from pretrain.jobs.claims import SECONDS_BETWEEN_LOOKS, Claim, ClaimLost

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]
Work = Callable[[Experiment, Any, Advance], str]
IsDone = Callable[[Experiment, Any], bool]


@dataclass(frozen=True)
class _Piece:
    """One item as workers see it: what is claimed and worked on, and its steps."""

    item: Any
    claim: str
    steps: int


def share_out(
    work: Work,
    experiment: Experiment,
    items: Sequence[Any],
    *,
    is_done: IsDone,
    claim: Callable[[Any], str],
    steps: Callable[[Any], int],
    workers: int,
    label: str,
    unit: str = "step",
) -> None:
    """Do `work` on every item, in the order given, by so many processes at a time.

    Commands that share the experiment's folder, on whatever hosts, share the work: each item is
    claimed by the worker that does it, and all commands return when all items are done.

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
    is_done : callable
        Whether an item needs no work any more, by what is on disk. A function of a module.
    claim : callable
        Name of an item's claim, such as `pretrain/base/p1`.
    steps : callable
        Steps of an item.
    workers : int
        Processes; 1 works in a single child process.
    label : str
        What the progress bar says.
    unit : str
        What a step is called.

    Raises
    ------
    InputError
        What `work` raised, if a worker died, or if there is no space left; after all other
        items, if `work` raised `Diverged` for some.
    """
    if not items:
        return
    context = multiprocessing.get_context("spawn")
    said: Queue[Any] = context.Queue()
    workers = min(workers, len(items))
    pieces = [_Piece(item, claim(item), steps(item)) for item in items]
    # By their names, so that a worker watches its parent before it imports TensorFlow.
    names = [(function.__module__, function.__name__) for function in (work, is_done)]
    # Items are of modules that import TensorFlow, so a worker reads them after it started that.
    packed = pickle.dumps(pieces)
    processes = [
        context.Process(target=_worker, args=(i, names, experiment, packed, said))
        for i in range(workers)
    ]
    for process in processes:
        process.start()
    started, ended = time.monotonic(), 0
    progress = _Progress(pieces, label, unit)
    try:
        while ended < workers:
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
            if kind == "bad input":
                raise InputError(value)
            elif kind == "error":
                raise RuntimeError(value)
            elif kind == "log":
                logger.log(*value)
            elif kind == "end":
                ended += 1
            else:
                getattr(progress, kind)(*value)
    finally:
        for process in processes:
            if ended < workers:
                process.kill()
            process.join()
        progress.bar.close()
        if ended < workers:
            # What a killed worker had is free for other hosts at once.
            for piece in pieces:
                Claim(experiment, piece.claim).clear()
    seconds = time.monotonic() - started
    by_others = len(items) - progress.done_here
    others = f", {by_others} by other commands" if by_others else ""
    logger.info("%s: %d items%s, %.0f s", label, len(items), others, seconds)
    if given_up := sorted(progress.given_up):
        named = "; ".join(given_up[:5]) + ("; ..." if len(given_up) > 5 else "")
        raise InputError(
            f"{label}: {len(given_up)} of {len(items)} runs diverged ({named})"
            ", all others are done; run the same command again to go on without them, remove a "
            "run's diverged.json to train it on from its last good checkpoint, or lower the "
            "learning rate in another output folder"
        )


class _Progress:
    """What is done of all pieces together, by these workers and by other commands."""

    def __init__(self, pieces: Sequence[_Piece], label: str, unit: str) -> None:
        self.pieces, self.label = pieces, label
        self.bar = tqdm(
            total=sum(piece.steps for piece in pieces), desc=label, unit=f" {unit}", smoothing=0.05
        )
        self.reported = [0] * len(pieces)
        self.working: set[int] = set()
        self.done_here = 0
        self.given_up: list[str] = []
        self.told: list[str] = []

    def begun(self, index: int) -> None:
        """Count a piece as worked on by these workers."""
        self.working.add(index)

    def advanced(self, index: int, steps: int) -> None:
        """Count steps of a piece, at most those that it has."""
        steps = min(steps, self.pieces[index].steps - self.reported[index])
        self.reported[index] += steps
        self.bar.update(steps)

    def done(self, index: int, line: str) -> None:
        """Count a piece that these workers did."""
        self.done_here += 1
        self.found(index)
        logger.debug("%s", line)

    def diverged(self, index: int, line: str) -> None:
        """Count a piece that these workers gave up."""
        self.done_here += 1
        self.found(index)
        self.given_up.append(line)
        logger.debug("diverged: %s", line)

    def found(self, index: int) -> None:
        """Count a piece that somebody did."""
        self.working.discard(index)
        self.advanced(index, self.pieces[index].steps)

    def lost(self, index: int) -> None:
        """Give up a piece that another command took over."""
        self.working.discard(index)
        self.bar.update(-self.reported[index])
        self.reported[index] = 0
        logger.info(
            "%s: %s was taken over by another command", self.label, self.pieces[index].claim
        )

    def waiting(self, owners: dict[int, str]) -> None:
        """Say once for whom these workers wait, when they have nothing else to do."""
        if self.working:
            return
        listed = [f"{self.pieces[index].claim} ({owner})" for index, owner in owners.items()]
        if listed != self.told:
            self.told = listed
            more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
            logger.info(
                "%s: waiting for what other commands do: %s%s",
                self.label,
                ", ".join(listed[:5]),
                more,
            )


def _worker(
    number: int,
    names: Sequence[tuple[str, str]],
    experiment: Experiment,
    packed: bytes,
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
        work, is_done = (getattr(importlib.import_module(module), name) for module, name in names)
        logging.getLogger().addHandler(_ToParent(said))
        _work_through(work, is_done, experiment, pickle.loads(packed), said)
        said.put(("end", None))
    except InputError as error:
        said.put(("bad input", error.message))
    except Exception as error:
        full = no_space(error, experiment.output)
        said.put(("bad input", full.message) if full else ("error", traceback.format_exc()))


def _work_through(
    work: Work,
    is_done: IsDone,
    experiment: Experiment,
    pieces: Sequence[_Piece],
    said: Queue[Any],
) -> None:
    """Do every piece that nobody else does or has done, until all are done."""
    claims = [Claim(experiment, piece.claim) for piece in pieces]

    def do(index: int) -> bool:
        """Settle one piece if its claim is free; whether it is settled now."""
        piece, claim = pieces[index], claims[index]
        if is_done(experiment, piece.item):
            said.put(("found", (index,)))
            return True
        if not claim.take():
            return False
        said.put(("begun", (index,)))

        def advance(steps: int) -> None:
            claim.check()
            said.put(("advanced", (index, steps)))

        try:
            if is_done(experiment, piece.item):  # by another, since the look before
                said.put(("found", (index,)))
            else:
                said.put(("done", (index, work(experiment, piece.item, advance))))
        except Diverged as diverged:
            said.put(("diverged", (index, str(diverged))))
        except ClaimLost:
            said.put(("lost", (index,)))
            return False
        finally:
            claim.give_back()
        return True

    left = list(range(len(pieces)))
    idle = 0
    while left:
        before, left = left, [index for index in left if not do(index)]
        idle = idle + 1 if left == before else 0
        if idle > 1:
            said.put(("waiting", ({index: claims[index].owner for index in left},)))
        if idle:
            time.sleep(SECONDS_BETWEEN_LOOKS)


class _ToParent(logging.Handler):
    """Hands what a worker says to its parent, which says it."""

    def __init__(self, said: Queue[Any]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record over."""
        if record.name.partition(".")[0] in ("pretrain", "finetune", "predict"):
            self.said.put(("log", (record.levelno, "%s", record.getMessage())))
