"""A disk that is full: what is there stays whole, one line says so, and it can go on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import no_space
from tests.experiments import command, environment, files_of, small, write_config
from tests.test_pipeline import wait_for
from tests.test_sharing import results, start

SIZE = 16 << 20


def mount(folder: Path) -> bool:
    """Mount a file system of 16 MiB, where one may."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        return False
    options = ["-t", "tmpfs", "-o", f"size={SIZE}"]
    mounted = subprocess.run(["mount", *options, "tmpfs", str(folder)], capture_output=True)
    return mounted.returncode == 0


def can_mount(folder: Path) -> bool:
    if not mount(folder):
        return False
    subprocess.run(["umount", "-l", str(folder)], check=True)
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system that can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder):
        pytest.skip("needs to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, free: int) -> Path:
    """Fill the file system of a folder but for so many bytes."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    there = os.statvfs(folder)
    with filler.open("wb") as file:
        file.write(bytes(max(there.f_bavail * there.f_frsize - free, 0)))
    there = os.statvfs(folder)
    assert there.f_bavail * there.f_frsize <= free
    return filler


def refused(
    stage: str, config: Path, preexec: Callable[[], Any] | None = None
) -> tuple[str, dict[str, bytes]]:
    """Run a stage that must fail for want of space; its line, and the files that there are."""
    result = subprocess.run(
        command(stage, config, "--workers", "1"),
        cwd=config.parent,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=preexec,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "Logging error" not in result.stderr
    lines = result.stderr.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert lines[-1].startswith("Error: ")
    assert ": no space left to write it; free some and run the same command again" in lines[-1]
    files = files_of(config.parent / "out")
    assert not [name for name in files if ".partial" in name and "corpus" not in name]
    return lines[-1], files


def checkpoints(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if "/checkpoint-" in name}


def succeed(stage: str, config: Path) -> None:
    result = subprocess.run(
        command(stage, config, "--workers", "1"),
        cwd=config.parent,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def killed_on_the_way(config: Path) -> dict[str, bytes]:
    """Pretrain until there are two checkpoints of a run and more to come; return them."""
    output = config.parent / "out"
    for _ in range(5):
        process = start("pretrain", config, config.parent / "said.txt")
        second = output / "pretrain" / "base" / "p1" / "checkpoint-20.safetensors"
        assert wait_for(second.exists, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = checkpoints(files_of(output))
        if len(found) == 2 and not any("-50." in name for name in found):
            return found
        shutil.rmtree(output)  # killed too late
    raise AssertionError("the run was never killed in time")


def test_a_full_disk_stops_a_stage_and_it_goes_on_when_there_is_space(
    finished: Path, small_disk: Path
) -> None:
    config = write_config(small_disk / "small.yaml", small("out"))
    before = killed_on_the_way(config)
    filler = fill(small_disk, min(map(len, before.values())) // 2)
    line, files = refused("pretrain", config)
    assert line.startswith("Error: out/pretrain/base/p1/checkpoint-")
    assert checkpoints(files) == before
    filler.unlink()
    succeed("pretrain", config)

    # Nothing at all can be written.
    for part in ("tasks", "finetune"):
        shutil.copytree(finished / "out" / part, small_disk / "out" / part)
    filler = fill(small_disk, 0)
    refused("predict", config)
    filler.unlink()
    succeed("predict", config)
    one, other = results(finished / "out"), results(small_disk / "out")
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


def test_a_limit_on_the_size_of_files_is_like_a_full_disk(finished: Path, tmp_path: Path) -> None:
    if can_mount(tmp_path):
        pytest.skip("a file system that is really full is tested")
    config = write_config(tmp_path / "small.yaml", small("out"))
    before = killed_on_the_way(config)
    limit = min(map(len, before.values())) - 1

    def allow_less() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    line, files = refused("pretrain", config, allow_less)
    assert line.startswith("Error: out/pretrain/base/p1/checkpoint-")
    assert checkpoints(files) == before
    succeed("pretrain", config)
    one, other = results(finished / "out"), results(tmp_path / "out")
    made = {name for name in one if name.startswith(("pretrain/", "corpus/", "vocab"))}
    assert made <= set(other)
    assert [name for name in sorted(made) if one[name] != other[name]] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_loss_curves_that_cannot_be_written_are_recognised(small_disk: Path) -> None:
    from pretrain.engine.loss_curves import open_recorder
    from pretrain.engine.runs import Run, run_seeds

    run = Run("base/p1", small_disk / "run", run_seeds("pretrain", "base/p1"), 0.001)
    run.folder.mkdir()
    fill(small_disk, 4 << 10)
    with pytest.raises(Exception) as caught:
        curves = open_recorder(run)
        for step in range(10_000):
            curves.add_scalar("loss", 1.0, step)
        curves.close()
    assert no_space(caught.value, run.folder) is not None
