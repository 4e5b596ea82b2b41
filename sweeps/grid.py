"""Grids as plain data: points are dicts of dotted overrides, helpers are functions on lists of them.

points = product({"optimizer.lr": [1e-3, 3e-3]}, {"seed": range(3)})   # 6 points
runs = configs(base, points)                                           # 6 RunConfigs
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from typing import Any

from scaling.config import RunConfig, override
from scaling.errors import UserError

Point = dict[str, Any]  # dotted RunConfig field -> value
Axes = Mapping[str, Iterable[Any]]  # dotted RunConfig field -> its values


def product(*factors: Axes | list[Point]) -> list[Point]:
    """Every combination, the last axis fastest. A factor is axes, or points made by another helper."""
    lists = []
    for factor in factors:
        if isinstance(factor, Mapping):
            lists += [[{name: value} for value in values] for name, values in factor.items()]
        else:
            lists.append(factor)
    return [_merge(combination) for combination in itertools.product(*lists)]


def zip_(axes: Axes) -> list[Point]:
    """Axes walked together. Raises UserError when they differ in length."""
    columns = {name: list(values) for name, values in axes.items()}
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(values)}" for name, values in columns.items())
        raise UserError(f"axes zipped together differ in length: {lengths}; give as many values to each.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def chain(*grids: list[Point]) -> list[Point]:
    """One grid after the other, a point met before left out."""
    points: list[Point] = []
    for point in itertools.chain(*grids):
        if point not in points:
            points.append(point)
    return points


def subsample(points: list[Point], count: int, seed: int = 0) -> list[Point]:
    """`count` points drawn without replacement, in their old order; all of them when there are fewer."""
    chosen = random.Random(seed).sample(range(len(points)), min(count, len(points)))
    return [points[index] for index in sorted(chosen)]


def configs(base: RunConfig, points: Iterable[Point]) -> list[RunConfig]:
    """`base` under each point. Raises UserError naming an unknown or mistyped field."""
    return [override(base, point) for point in points]


def _merge(parts: Iterable[Point]) -> Point:
    merged: Point = {}
    for part in parts:
        for name, value in part.items():
            if name in merged:
                raise UserError(f"field {name!r} stands in two factors of a product; keep one.")
            merged[name] = value
    return merged
