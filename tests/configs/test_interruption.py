"""Commands that are interrupted: one line, the exit code of the signal, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.analysis.simulation import simulate_probability, write_store
from tests.experiments import environment

LONGEST = 120.0
LINE = "{}; run the same command again to continue from what is finished"

# Workers that say that they work, and then take very long, whatever the terminal sends them.
SLOW = """
import time
from pathlib import Path
import click
import configs.processes
from configs.interruption import run_command

def wait(path):
    path.touch()
    time.sleep(600)

@click.command()
@click.argument("folder", type=Path)
def main(folder):
    configs.processes.WORTH_STARTING = 0.0
    try:
        with configs.processes.Workers(2) as workers:
            list(workers.map(wait, [folder / "1", folder / "2"], 1.0))
    finally:
        (folder / "cleaned").touch()

if __name__ == "__main__":
    run_command(lambda: main, "slow")
"""

# The analysis, of which no step is too short to start processes for.
ANALYSIS = """
import configs.processes
from configs.interruption import run_command

def load():
    from analysis.command import analyze
    configs.processes.WORTH_STARTING = 0.0
    return analyze

if __name__ == "__main__":
    run_command(load, "analysis")
"""


def of_session(session: int) -> list[str]:
    """Return the processes of a session that have not ended."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,sess=,stat=,args="], capture_output=True, text=True, check=True
    )
    lines = [line.split(maxsplit=3) for line in listed.stdout.splitlines()]
    return [" ".join(line) for line in lines if int(line[1]) == session and line[2][0] != "Z"]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def interrupted(
    arguments: list[str],
    folder: Path,
    is_time: Callable[[int], bool],
    number: signal.Signals = signal.SIGINT,
    *,
    everybody: bool = True,
) -> str:
    """Send a signal to a command when it is time, and check how it ends.

    Parameters
    ----------
    arguments : list of str
        The command.
    folder : Path
        Where to run it.
    is_time : callable
        Whether to send the signal, given the command's session.
    number : signal.Signals
        The signal.
    everybody : bool
        Send it to the command's workers too, as a terminal does.

    Returns
    -------
    str
        What the command wrote to standard error.
    """
    with (folder / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or is_time(process.pid), "the command did not begin"
        )
        assert process.poll() is None, (folder / "stderr.txt").read_text()
        if everybody:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        code = process.wait(timeout=LONGEST)
        wait_until(lambda: not of_session(process.pid), "a process outlived the command")
    finally:
        if of_session(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    text = (folder / "stderr.txt").read_text()
    assert code == 128 + number, text
    assert "Traceback" not in text
    word = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}[number]
    assert text.count(word) == 1
    assert text.splitlines()[-1] == LINE.format(word)
    return text


@pytest.mark.parametrize("everybody", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_that_take_long_end_with_the_command(
    tmp_path: Path, number: signal.Signals, everybody: bool
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    started = [tmp_path / "1", tmp_path / "2"]
    text = interrupted(
        [sys.executable, str(script), str(tmp_path)],
        tmp_path,
        lambda _: all(path.exists() for path in started),
        number,
        everybody=everybody,
    )
    assert len(text.splitlines()) == 1
    assert (tmp_path / "cleaned").exists()


def test_a_command_that_still_imports_ends_too(tmp_path: Path) -> None:
    script = tmp_path / "importing.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from configs.interruption import run_command\n"
        "def load():\n"
        "    Path('importing').touch()\n"
        "    time.sleep(600)\n"
        "run_command(load, 'importing')\n"
    )
    arguments = [sys.executable, str(script)]
    text = interrupted(arguments, tmp_path, lambda _: (tmp_path / "importing").exists())
    assert len(text.splitlines()) == 1


@pytest.mark.slow
def test_the_analysis_begins_again_after_an_interruption(tmp_path: Path) -> None:
    probability = {
        size: simulate_probability(400, 4, 2, 1, skill=skill, seed=number)
        for number, (size, skill) in enumerate({"mini": 0.6, "base": 1.2}.items())
    }
    store = write_store(tmp_path / "inference.zarr", probability)
    script = tmp_path / "analysis_by_processes.py"
    script.write_text(ANALYSIS)
    options = ["--out", str(tmp_path / "out"), "--processes", "2", "--bootstrap", "20"]
    analysis = [sys.executable, str(script), str(store), *options]
    # The command itself, the tracker of its resources and a worker.
    interrupted(analysis, tmp_path, lambda session: len(of_session(session)) > 2)
    assert not (tmp_path / "out").exists()
    again = subprocess.run(analysis, cwd=tmp_path, env=environment(), capture_output=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out" / "report.html").exists()
