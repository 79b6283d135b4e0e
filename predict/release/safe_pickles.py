"""Read others' pickles of containers, text, numbers and NumPy arrays, and refuse all others.

A pickle is a program that may call any importable function. This reader allows only the names by
which arrays and sets are rebuilt, and refuses every other name before it is imported.
"""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import InputError
from predict.tensor.contract import one_line


class _Rebuild:
    """A function that a pickle may call but cannot alter, because it has no attributes."""

    __slots__ = ()


class _Latin1(_Rebuild):
    """Rebuilds bytes of old protocols: ``_codecs.encode(text, "latin1")``."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1", "iso-8859-1"):
            raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
        return text.encode("latin1")


class _FromBuffer(_Rebuild):
    """Rebuilds contiguous arrays of protocol 5."""

    __slots__ = ()

    def __call__(
        self,
        buffer: bytes,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        order: Any,
        axes: tuple[int, ...] | None = None,
    ) -> np.ndarray:
        array = np.frombuffer(buffer, dtype=dtype)
        if axes is not None:
            return array.reshape(shape).transpose(axes)
        return array.reshape(shape, order=order)


def _allowed() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    }
    names["_codecs", "encode"] = _Latin1()
    names["numpy", "ndarray"] = np.ndarray
    names["numpy", "dtype"] = np.dtype
    # NumPy 2 renamed the module; the functions are the same.
    multiarray = importlib.import_module("numpy._core.multiarray")
    for module in ("numpy._core", "numpy.core"):
        names[f"{module}.multiarray", "_reconstruct"] = multiarray._reconstruct
        names[f"{module}.multiarray", "scalar"] = multiarray.scalar
        names[f"{module}.numeric", "_frombuffer"] = _FromBuffer()
    return names


class _Refused(Exception):
    """A pickle uses a name that is not allowed; the message is the name."""


class _Reader(pickle.Unpickler):
    _names = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise _Refused(f"{module}.{name}")
        return self._names[module, name]


def read_pickle(path: Path | str) -> Any:
    """Read a pickle that contains data only.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    object
        Built from dicts, lists, tuples, sets, str, bytes, numbers, bool, None and NumPy arrays,
        scalars and data types.

    Raises
    ------
    InputError
        If the file cannot be read, is not a pickle, or uses any other name; the message has the
        name.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _Reader(file).load()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except _Refused as refused:
        raise InputError(
            f"{path}: uses {refused}, and only containers, text, numbers and NumPy arrays are"
            " read; give a file of these"
        ) from refused
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path}: cannot be read as a pickle ({one_line(error)}); restore the file"
        ) from error
