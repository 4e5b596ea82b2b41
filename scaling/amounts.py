"""Parameters, tokens and money as people say them."""

from __future__ import annotations


def human(value: float, digits: int = 3) -> str:
    """1500 -> 1.5k, 2.06e11 -> 206B."""
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * (1 - 0.5 * 10.0**-digits):
            scaled = value / unit
            if scaled >= 1e4:
                break
            return f"{_significant(scaled, digits)}{suffix}"
    return _significant(value, digits) if abs(value) < 1e4 else f"{value:.2e}"


def _significant(value: float, digits: int) -> str:
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"
