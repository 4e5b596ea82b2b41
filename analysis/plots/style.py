"""One look for every figure: sizes, colours, readable log axes, and how a figure is saved.

Figures are built on `matplotlib.figure.Figure` without pyplot, so nothing global is touched and
no display is needed. Colours: Okabe & Ito (2008) for kinds, viridis for ordered budgets and sizes;
both hold for colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from scaling.amounts import human as human  # style.human: how axes name sizes
from scaling.files import whole

WIDTH = 6.8  # inches: the text width of a page
DPI = 200

BLACK, ORANGE, SKY, GREEN = "#1a1a1a", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#6b6b6b"
ORDERED = "viridis"
MOST_LEGEND = 7  # more curves than this are told apart by a colour bar
ORDERED_TOP = 0.88  # the last tenth of viridis is too pale for a light background

_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

# What an axis shows; the unit and the counting convention belong in the label.
Quantity = Literal["flops", "params", "tokens", "loss", "ratio"]

_RC: Any = {  # matplotlib types the keys as a literal of all its settings
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": None,
    "path.simplify": True,
    "pdf.fonttype": 42,  # text stays text, so a paper's editor can restyle it
    "svg.fonttype": "path",  # a report must look the same where our font is not installed
    "svg.hashsalt": "scaling",  # same figure, same bytes
}


@contextmanager
def styled() -> Iterator[None]:
    """Our look for the figures built and saved inside; restored afterwards."""
    with mpl.rc_context(_RC):
        yield


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, inches; call inside `styled()`."""
    return Figure(figsize=(width, height), layout="constrained")


def save(drawing: Figure, stem: Path, numbers: pd.DataFrame, svg: bool = False) -> list[Path]:
    """Write stem.png, stem.pdf, stem.csv (the numbers behind the figure) and, if asked, stem.svg.

    Every file is whole or absent and carries no date, so that the same numbers give the same bytes.
    Returns the paths, PNG first.
    """
    # Constrained layout is settled once, on the first draw; the later formats reuse it.
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
        "svg": {"Date": None},
    }
    written = []
    for suffix in ("png", "pdf", "svg") if svg else ("png", "pdf"):
        path = stem.with_name(f"{stem.name}.{suffix}")
        with whole(path) as temporary:
            drawing.savefig(temporary, format=suffix, dpi=DPI, metadata=undated[suffix])
        drawing.set_layout_engine("none")
        written.append(path)
    path = stem.with_name(f"{stem.name}.csv")
    with whole(path) as temporary:
        numbers.to_csv(temporary, index=False)
    return [*written, path]


def series(name: str, **columns: Any) -> pd.DataFrame:
    """Rows of a figure's CSV: a `series` column and the numbers drawn (arrays, or one value for all rows)."""
    lengths = [len(v) for v in columns.values() if np.ndim(v)]
    return pd.DataFrame({"series": name, **columns}, index=range(max(lengths, default=1)))


def stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All series of a figure under one another; columns of numbers stay numbers where a series lacks them."""
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def ordered_colours(count: int) -> list[Any]:
    """`count` colours along viridis, dark for the first."""
    cmap = mpl.colormaps[ORDERED]
    return [cmap(ORDERED_TOP * i / max(1, count - 1)) for i in range(count)]


def log_colours(values: np.ndarray) -> tuple[LogNorm, Any]:
    """Norm and colour map for positive values on a log scale, pale end cut off."""
    lo, hi = float(np.min(values)), float(np.max(values))
    if hi <= lo * 1.0001:
        lo, hi = lo / 1.5, hi * 1.5
    cmap = mpl.colors.ListedColormap(mpl.colormaps[ORDERED](np.linspace(0, ORDERED_TOP, 256)))
    return LogNorm(lo, hi), cmap


def colour_bar(drawing: Figure, axes: Axes, norm: LogNorm, cmap: Any, quantity: Quantity, text: str) -> None:
    """A bar beside `axes` for colours on a log scale."""
    bar = drawing.colorbar(ScalarMappable(norm, cmap), ax=axes, pad=0.015, aspect=28)
    log_axis(bar.ax.yaxis, float(norm.vmin or 1.0), float(norm.vmax or 10.0), quantity, 5)
    bar.ax.grid(False)
    bar.set_label(text)
    bar.ax.spines[:].set_visible(False)


def count_name(convention: str) -> str:
    """How a counting convention is written in a label."""
    written = {"6nd": "6ND", "6n": "6N", "given": "as given", "non_embedding": "non-embedding"}
    return written.get(convention, convention)


def log_axis(axis: Axis, low: float, high: float, quantity: Quantity, most: int = 7) -> None:
    """Log scale from `low` to `high` with at most about `most` labels that a reader can read.

    Decades for wide ranges, 1-2-5 or finer for narrow ones; every label is placed by hand, so no
    minor label can collide with a major one.
    """
    name = _name(axis)
    getattr(axis.axes, f"set_{name}scale")("log")
    getattr(axis.axes, f"set_{name}lim")(low, high)
    ticks = log_ticks(low, high, most, fewest=5 if quantity == "loss" else 4)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(labels(ticks, quantity)))
    minor = _minor_ticks(low, high) if quantity != "loss" else []
    axis.set_minor_locator(FixedLocator(minor) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def linear_ticks(axis: Axis, low: float, high: float, most: int = 7) -> None:
    """Linear scale with plain numbers."""
    getattr(axis.axes, f"set_{_name(axis)}lim")(low, high)
    ticks = _nice_linear(low, high, most)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter(_plain(ticks)))


def _name(axis: Axis) -> str:
    return "x" if axis is axis.axes.xaxis else "y"


def log_ticks(low: float, high: float, most: int = 7, fewest: int = 4) -> list[float]:
    """Tick places for a log axis: whole decades if three or more fit, else the coarsest with `fewest`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**k for k in range(first, last + 1) if low <= 10.0**k <= high]
    if len(decades) >= 3:
        step = math.ceil(len(decades) / most)
        return decades[::step]
    for subs in ((1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)):
        ticks = [s * 10.0**k for k in range(first, last + 1) for s in subs if low <= s * 10.0**k <= high]
        if fewest <= len(ticks) <= most + 1:
            return ticks
    plain = _nice_linear(low, high, most)
    if len(plain) < 2:
        plain = _nice_linear(low, high, most + 2)
    return ticks if len(plain) < 4 <= len(ticks) <= most + 1 else plain


def _minor_ticks(low: float, high: float) -> list[float]:
    if math.log10(high / low) > 9:
        return []
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [s * 10.0**k for k in range(first, last + 1) for s in range(2, 10) if low <= s * 10.0**k <= high]


def _nice_linear(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(1, most - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def labels(ticks: Sequence[float], quantity: Quantity) -> list[str]:
    """How tick values are written on an axis of `quantity`."""
    if quantity in ("params", "tokens"):
        return [human(t) for t in ticks]
    if quantity == "flops" or not all(1e-3 <= abs(t) < 1e4 for t in ticks):
        return [power(t) for t in ticks]
    return _plain(ticks)


def power(value: float) -> str:
    """3×10¹⁰, in plain characters: mathtext would put three more fonts into every PDF."""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = value / 10.0**exponent
    tens = "10" + str(exponent).translate(_RAISED)
    return tens if abs(mantissa - 1) < 1e-6 else f"{mantissa:.3g}×{tens}"


def _plain(ticks: Sequence[float]) -> list[str]:
    """All with as many decimals as the one that needs most: 2.0 beside 2.2."""
    decimals = max((len(f"{t:.6g}".partition(".")[2]) for t in ticks), default=0)
    return [f"{t:.{decimals}f}".replace("-", "\N{MINUS SIGN}") for t in ticks]


def padded(values: Any, factor: float = 1.25) -> tuple[float, float]:
    """Limits of a log axis around positive `values`, finite ones only."""
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array) & (array > 0)]
    return float(array.min() / factor), float(array.max() * factor)


def loss_limits(values: Any, share: float = 0.06) -> tuple[float, float]:
    """Limits of a loss axis: the range of finite `values` and `share` of it on either side (in logs)."""
    array = np.asarray(values, dtype=float)
    array = np.log(array[np.isfinite(array) & (array > 0)])
    margin = max(share * float(array.max() - array.min()), 0.004)
    return float(np.exp(array.min() - margin)), float(np.exp(array.max() + margin))
