"""Figures that are composed but not drawn, for tests of everything else that the command writes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest
from matplotlib.figure import Figure

START_OF_PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480)
"""Signature and size of a picture, which is what the report reads."""


@contextmanager
def drawing_nothing() -> Iterator[None]:
    """Compose figures as ever, but write no picture: drawing is nine tenths of an analysis."""

    def save(figure: Figure, file: IO[bytes], **options: Any) -> None:
        file.write(START_OF_PNG)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        patch.setattr(Figure, "draw_without_rendering", lambda figure: None)
        yield


@pytest.fixture
def not_drawn() -> Iterator[None]:
    """Draw no figure in this test."""
    with drawing_nothing():
        yield


@pytest.fixture(scope="module")
def not_drawn_in_module() -> Iterator[None]:
    """Draw no figure in this module, nor for its fixtures."""
    with drawing_nothing():
        yield
