"""One style for all figures: column width, colour-blind safe, readable in grey."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Blue and vermillion of Okabe and Ito's palette; in grey they differ in lightness as well.
OBSERVED = "#0072B2"
BASELINE = "#D55E00"
MARK = "#222222"
DASHED = (0, (4, 1.5))

# Sizes have an order, and so have the colours: from light (smallest) to dark, which grey keeps.
SIZE_COLOURS = "viridis_r"
SIZE_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.2)), (0, (3, 1, 1, 1)), (0, (1.5, 1)))

COLUMN_WIDTH = 3.3
"""Width of one column, in inches."""

PAGE_WIDTH = 6.8
"""Width of two columns, in inches."""

PNG_DPI = 200

EM_OF_CHARACTER = 0.6
"""Assumed width of a character in ems; few characters of a name are wider."""

LEGEND_ROW = 0.145
"""Height of a row of a legend, in inches."""

LEGEND_HANDLE = 9
"""Width of the line of a legend's entry and the space around it, in characters."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,
    # Names of sizes may contain dollar signs.
    "text.parse_math": False,
    "savefig.dpi": PNG_DPI,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the figures, independently of the user's matplotlib settings."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, without a window."""
    return Figure(figsize=(width, height), layout="constrained")


def minus(text: str) -> str:
    """Typeset the hyphens of numbers as minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def characters_in(width: float, points: float) -> int:
    """Return how many characters of a font size fit into a width in inches."""
    return max(int(72 * width / (EM_OF_CHARACTER * points)), 4)


def shortened(name: str, characters: int) -> str:
    """Cut the middle out of a name that has more than the given number of characters."""
    if len(name) <= characters:
        return name
    end = (characters - 1) // 2
    return f"{name[: characters - 1 - end]}…{name[len(name) - end :]}"


def wrapped(text: str, width: float, points: float = 8) -> str:
    """Break a text into lines that fit into a width in inches."""
    return "\n".join(textwrap.wrap(text, characters_in(width, points), break_on_hyphens=False))


def add_legend_of_sizes(figure: Figure, sizes: Iterable[str], loc: str) -> None:
    """Put a legend of the sizes that are drawn outside the axes, in as many columns as fit.

    The figure grows by the height of every row after the second.
    """
    lines: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            lines.setdefault(name, handle)
    drawn = [size for size in dict.fromkeys(sizes) if size in lines]
    room = characters_in(figure.get_figwidth(), 7)
    names = [shortened(size, room - LEGEND_HANDLE) for size in drawn]
    longest = max(map(len, names), default=0)
    columns = max(room // (longest + LEGEND_HANDLE), 1)
    # Not more columns than this number of rows needs.
    rows = max(-(-len(names) // columns), 1)
    columns = max(-(-len(names) // rows), 1)
    handles = [lines[size] for size in drawn]
    figure.legend(handles=handles, labels=names, loc=loc, ncols=columns)  # type: ignore[call-overload]
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(rows - 2, 0))


def size_styles(sizes: int) -> list[dict[str, Any]]:
    """Choose a line for each size, smallest first: neighbours differ in lightness and dashes."""
    # The lightest yellow of the palette would be invisible on white.
    positions = np.linspace(0.2, 1.0, sizes) if sizes > 1 else [1.0]
    colours = mpl.colormaps[SIZE_COLOURS](positions)
    return [
        {"color": tuple(colour), "linestyle": SIZE_DASHES[(sizes - 1 - number) % 4]}
        for number, colour in enumerate(colours)
    ]


def set_log_density(axes: Axes, smallest: float, largest: float) -> None:
    """Give an axis of densities a logarithmic scale that shows all of them, in plain numbers."""
    bottom, top = smallest / 2, 1.6 * largest
    axes.set(yscale="log", ylim=(bottom, top))
    # With powers of ten alone, an axis of less than two decades could have a single number.
    labelled = (1.0,) if top / bottom > 100 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=labelled))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _lay_out(figure: Figure) -> None:
    """Place axes and labels once for both formats, because placing takes longer than drawing."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        FigureCanvasAgg(figure)
        figure.set_dpi(PNG_DPI)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def to_png(figure: Figure) -> bytes:
    """Render as PNG; the same figure always gives the same bytes."""
    _lay_out(figure)
    FigureCanvasAgg(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def to_pdf(figure: Figure) -> bytes:
    """Render as PDF, without the date that would make the bytes differ."""
    _lay_out(figure)
    FigureCanvasPdf(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()
