"""Start TensorFlow without its start-up lines on the screen."""

from __future__ import annotations

import os
from pathlib import Path

from configs.errors import InputError
from configs.paths import log_file


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


def missing_library(error: ImportError) -> InputError:
    """Make the error that says how to install the libraries for training."""
    return InputError(
        f"{error.name or 'TensorFlow'} is not installed, and training and prediction need it; run "
        "pip install -c constraints.txt -e '.[train]'"
    )


def backend_log(output: Path) -> Path:
    """Path of the log of TensorFlow's libraries."""
    return log_file(output, "backend")
