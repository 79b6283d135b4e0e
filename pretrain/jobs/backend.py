"""Start TensorFlow without its start-up lines on the screen."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from configs.errors import InputError
from configs.paths import log_file
from configs.processes import Send, messages_from
from pretrain.engine.devices import Devices, devices_present


def start_backend(log: Path, *, for_good: bool = False) -> None:
    """Import TensorFlow and list its devices, with the messages of its libraries in a file.

    Each process gets about twenty lines from the libraries on standard error. They would hide the
    one line that reports an error in the input.

    Parameters
    ----------
    log : Path
        The file to append to.
    for_good : bool
        Redirect standard error to the file for the rest of the process. For a worker, whose
        errors its parent reports.

    Raises
    ------
    InputError
        If the libraries for training are not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    log.parent.mkdir(parents=True, exist_ok=True)
    standard_error = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()
        import keras_hub  # noqa: F401
    except ImportError as error:
        raise missing_library(error) from error
    finally:
        if not for_good:
            os.dup2(standard_error, 2)
        os.close(standard_error)


def require_libraries() -> None:
    """Check that the libraries for training are installed, without importing them.

    Raises
    ------
    InputError
        If one of them is not.
    """
    for name in ("tensorflow", "keras_hub"):
        if importlib.util.find_spec(name) is None:
            raise missing_library(ImportError(name=name))


@lru_cache
def devices_of_workers(log: Path) -> Devices:
    """Look for devices in a worker process, as whatever process finds a TPU also takes it.

    Parameters
    ----------
    log : Path
        The file for the messages of TensorFlow's libraries.

    Raises
    ------
    InputError
        If the libraries for training are not installed.
    """
    (devices,) = messages_from(_send_devices, [(log,)], name="looking for devices")
    assert isinstance(devices, Devices)
    return devices


def _send_devices(send: Send, log: Path) -> None:
    start_backend(log, for_good=True)
    send(devices_present())


def missing_library(error: ImportError) -> InputError:
    """Make the error that says how to install the libraries for training."""
    return InputError(
        f"{error.name or 'TensorFlow'} is not installed, and training and prediction need it; run "
        "pip install -c constraints.txt -e '.[train]'"
    )


def backend_log(output: Path) -> Path:
    """Path of the log of TensorFlow's libraries."""
    return log_file(output, "backend")
