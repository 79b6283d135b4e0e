"""Claims: one process at a time works on a run, whatever processes and hosts share a folder.

A claim is a file in the experiment's folder `claims`. It names the process and the host that hold
it, and its holder touches it ten times within `claim_expires`. Another process takes it over once
the holder is gone (which it sees on the same host only), or once the file stays untouched for
`claim_expires` by its own clock; the clocks of two hosts are never compared.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from configs.atomic import remove_leftovers
from configs.errors import InputError
from configs.paths import claim_file
from configs.schema import Experiment
from pretrain.engine.saved_arrays import has_remains, remove_checkpoints

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0

SECONDS_EMPTY = 5.0
"""How long a claim may be empty: between making the file and writing to it lie microseconds."""


def _is_zombie(owner: Any) -> bool:
    """Whether a claim's owner is a process of this host that has ended (Linux only)."""
    try:
        status = Path(f"/proc/{owner.pid}/stat").read_text()
    except OSError:
        return False
    # The command's name, in parentheses, may hold anything; see proc_pid_stat(5).
    fields = status.rpartition(")")[2].split()
    state, started = fields[0], int(fields[19])
    same = owner.start is not None and owner.start % 2**64 == started
    return state in "ZX" and same and owner.hostname.startswith(socket.gethostname())


class ClaimLost(Exception):
    """Another process took a claim over while its holder was suspended or cut off."""


class Claim:
    """One claim; to be used by one thread.

    Parameters
    ----------
    experiment : Experiment
        Its `output` and `claim_expires`.
    name : str
        The claimed run or step, such as `pretrain/base/p1`.
    """

    def __init__(self, experiment: Experiment, name: str) -> None:
        self.path = claim_file(experiment.output, name)
        self._lease = filelock.SoftFileLease(
            self.path,
            lease_duration=experiment.claim_expires,
            heartbeat_interval=experiment.claim_expires / 10,
        )
        self._empty: tuple[tuple[int, int], float] | None = None

    def take(self) -> bool:
        """Take the claim if no process holds it, or if it has expired; whether that worked.

        Raises
        ------
        InputError
            If another process holds the claim with another `claim_expires`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                self._lease.acquire(blocking=False)
            except filelock.Timeout:
                if not self._remove_abandoned():
                    return False
                self._lease.acquire(blocking=False)
        except filelock.Timeout:
            return False
        except filelock.LeaseSettingsMismatch as error:
            raise InputError(
                f"{self.path}: is claimed with another claim_expires; give all processes the same"
            ) from error
        return True

    def _remove_abandoned(self) -> bool:
        """Remove the claim of a killed process that filelock takes to be alive.

        That is a process that its parent has not waited for (in many containers nobody waits for
        orphans, and its claim would be kept until it expires), and a process that was killed
        before it wrote its name into the file, whose claim would be kept for ever.
        """
        owner = self._lease.owner
        if not (self._is_empty_for_long() if owner is None else _is_zombie(owner)):
            return False
        moved = self.path.with_name(f"{self.path.name}.abandoned-{secrets.token_hex(6)}")
        try:
            self.path.rename(moved)
            if filelock.SoftFileLease(moved).owner != owner:
                # Another process was faster, and this is its claim; or its owner lives.
                self.path.hardlink_to(moved)
                return False
        except OSError:
            return False
        finally:
            moved.unlink(missing_ok=True)
        return True

    def _is_empty_for_long(self) -> bool:
        try:
            # Opening the file asks the server of a network folder for its current state.
            with self.path.open("rb") as file:
                if file.read(1):
                    self._empty = None
                    return False
                status = os.fstat(file.fileno())
        except OSError:
            return False
        key, now = (status.st_ino, status.st_ctime_ns), time.monotonic()
        if self._empty is None or self._empty[0] != key:
            self._empty = key, now
        return now - self._empty[1] >= SECONDS_EMPTY

    def check(self) -> None:
        """Check that this process still holds the claim.

        Raises
        ------
        ClaimLost
            If another process took it over.
        """
        if self._lease.compromise is not None:
            raise ClaimLost(str(self.path))

    def give_back(self) -> None:
        """Release the claim."""
        self._lease.release()

    def clear(self) -> None:
        """Remove the claim if it has expired."""
        if self.path.exists() and self.take():
            self.give_back()

    @property
    def owner(self) -> str:
        """The holder of the claim, for messages."""
        owner = self._lease.owner
        return "another process" if owner is None else f"process {owner.pid} on {owner.hostname}"


@contextmanager
def claimed(experiment: Experiment, name: str) -> Iterator[None]:
    """Hold a claim, waiting while another process holds it, which the log names.

    For steps that come before runs are shared out, such as making the vocabulary.
    """
    claim = Claim(experiment, name)
    awaited = None
    while not claim.take():
        if (owner := claim.owner) != awaited:
            logger.info("%s: waiting for %s", name, owner)
            awaited = owner
        time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        claim.give_back()


def tidy_run(experiment: Experiment, folder: Path, name: str) -> None:
    """Remove checkpoints and half-written files of a finished run (its folder, its claim's name).

    They stay where the process was killed between finishing the run and removing them.
    """
    claim = Claim(experiment, name)
    if (claim.path.exists() or has_remains(folder)) and claim.take():
        try:
            remove_leftovers(folder)
            remove_checkpoints(folder)
        finally:
            claim.give_back()
