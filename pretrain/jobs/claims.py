"""Claims: each run is one process's at a time, whatever processes and hosts share a folder.

A claim is a file in the experiment's folder `claims`, which names the process and the host that
have it and is touched ten times within the time after which it would expire. Others may take it
over once that process is gone, where they can see that (on the same host), or once they have seen
it untouched for that time on their own clock: what the clocks of hosts say is never compared.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from configs.errors import InputError
from configs.paths import claim_file
from configs.schema import Experiment
from pretrain.engine.saved_arrays import has_remains, remove_checkpoints, remove_leftovers

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1.0


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
    """Another process took a claim over while this one was suspended or cut off."""


class Claim:
    """One claim; to be used by one thread.

    Parameters
    ----------
    experiment : Experiment
        Its `output` and `claim_expires`.
    name : str
        What is claimed, such as `pretrain/base/p1`.
    """

    def __init__(self, experiment: Experiment, name: str) -> None:
        self.path = claim_file(experiment.output, name)
        self._lease = filelock.SoftFileLease(
            self.path,
            lease_duration=experiment.claim_expires,
            heartbeat_interval=experiment.claim_expires / 10,
        )

    def take(self) -> bool:
        """Take the claim if nobody has it, or if its owner's time is over.

        Raises
        ------
        InputError
            If another process has the claim for another time.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                self._lease.acquire(blocking=False)
            except filelock.Timeout:
                if not self._remove_zombie():
                    return False
                self._lease.acquire(blocking=False)
        except filelock.Timeout:
            return False
        except filelock.LeaseSettingsMismatch as error:
            raise InputError(
                f"{self.path}: is claimed with another claim_expires; give all processes the same"
            ) from error
        return True

    def _remove_zombie(self) -> bool:
        """Remove the claim of a killed process that its parent has not waited for.

        To filelock it is alive; where nobody waits for orphans, as in many containers, it would
        be so for as long as the claim lasts.
        """
        judged = self._lease.owner
        if judged is None or not _is_zombie(judged):
            return False
        aside = self.path.with_name(f"{self.path.name}.zombie-{secrets.token_hex(6)}")
        try:
            self.path.rename(aside)
            if filelock.SoftFileLease(aside).owner != judged:
                # Another process was faster, and this is its claim.
                self.path.hardlink_to(aside)
                return False
        except OSError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def check(self) -> None:
        """Make sure that the claim is still this process's.

        Raises
        ------
        ClaimLost
            If another process took it over.
        """
        if self._lease.compromise is not None:
            raise ClaimLost(str(self.path))

    def give_back(self) -> None:
        """Let others take the claim."""
        self._lease.release()

    def clear(self) -> None:
        """Remove the claim if its owner's time is over."""
        if self.path.exists() and self.take():
            self.give_back()

    @property
    def owner(self) -> str:
        """Who has the claim, in words."""
        owner = self._lease.owner
        return "another process" if owner is None else f"process {owner.pid} on {owner.hostname}"


@contextmanager
def claimed(experiment: Experiment, name: str) -> Iterator[None]:
    """Hold a claim, after waiting for it if another process has it; the log names that process.

    For what must be there before runs are shared out, such as the vocabulary.
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
    """Remove what is left in the folder of a finished run whose process was killed just then.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    folder : Path
        The run's folder.
    name : str
        Name of its claim.
    """
    claim = Claim(experiment, name)
    if (claim.path.exists() or has_remains(folder)) and claim.take():
        try:
            remove_leftovers(folder)
            remove_checkpoints(folder)
        finally:
            claim.give_back()
