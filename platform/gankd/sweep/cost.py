"""What the rows of a table cost in device-seconds: what several rows share is counted once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def device_seconds(manifest: Mapping[str, Any]) -> float:
    """Seconds that a stage took, times the workers that it took them on. Of a stage that was interrupted, also those up to the
    checkpoint that it went on from; what came between that and the interruption was lost, and nobody counted it.
    """
    last = float(manifest.get("seconds", math.nan)) * int(manifest.get("workers", 1))
    return last + float(manifest.get("earlier_device_seconds", 0.0))


@dataclass(frozen=True)
class RowCost:
    """Device-seconds of a row: of what it alone needs, and of what it needs beside other rows."""

    own: float
    shared: float

    def __str__(self) -> str:
        return f"{seconds(self.own)} + {seconds(self.shared)}"


@dataclass(frozen=True)
class Cost:
    """Device-seconds of a table.

    Attributes:
        rows: of each row.
        shared: of all that several rows need, each artifact once.
        unknown: the number of artifacts that are not in the store: never finished, or gone.
    """

    rows: tuple[RowCost, ...]
    shared: float
    unknown: int = 0

    @property
    def total(self) -> float:
        return sum(row.own for row in self.rows) + self.shared

    @property
    def apart(self) -> float:
        """Of the same rows, if each made for itself all that it needs."""
        return sum(row.own + row.shared for row in self.rows)

    def __str__(self) -> str:
        missing = f"; {self.unknown} artifacts are not in the store and not counted" if self.unknown else ""
        return (
            f"device-seconds, own + shared: {seconds(self.total)} in all, {seconds(self.shared)} of them in stages that several "
            f"rows share, counted once; {seconds(self.apart)} if each row made all that it needs{missing}."
        )


def seconds(value: float) -> str:
    """With one decimal below ten."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def cost_of(rows: Sequence[Collection[str]], manifests: Mapping[str, Mapping[str, Any]]) -> Cost:
    """Of rows that need these keys, over all their seeds."""
    needing = Counter(key for row in rows for key in set(row))
    spent = {key: device_seconds(manifests[key]) for key in needing if key in manifests}
    spent = {key: value for key, value in spent.items() if math.isfinite(value)}

    def of(row: Collection[str], *, shared: bool) -> float:
        return sum(spent.get(key, 0.0) for key in set(row) if (needing[key] > 1) == shared)

    costs = tuple(RowCost(of(row, shared=False), of(row, shared=True)) for row in rows)
    return Cost(costs, of(needing, shared=True), len(needing) - len(spent))
