"""All pairs of two sets of features, a tile at a time: inner products and squared distances in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

TILE = 2048
BLOCK = 256  # columns at a time of a product with itself, of which half is mirrored
# Networks compute in fp32: two features closer than this share of their squared norms are the same one.
SAME = 1e-13


class Tile(NamedTuple):
    """Rows of x against rows of y: products (a, b)."""

    rows: slice
    columns: slice
    products: Tensor


class Pairs:
    """Pairs of x (N, d) with y (M, d), or of x with itself, of which only half of the tiles are computed.

    What fits into one tile is computed once, however many metrics read it.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None, tile: int = TILE) -> None:
        self.x = x.double()
        self.y = self.x if y is None else y.double()
        self.symmetric, self.tile = y is None, tile
        if self.x.shape[1] != self.y.shape[1]:
            raise ValueError(f"features of {self.x.shape[1]} and {self.y.shape[1]} numbers do not compare")

    @property
    def dim(self) -> int:
        return self.x.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), len(self.y)

    @cached_property
    def norms(self) -> tuple[Tensor, Tensor]:
        """Squared norms of x (N,) and y (M,)."""
        own = self.x.square().sum(1)
        return own, own if self.symmetric else self.y.square().sum(1)

    @cached_property
    def _whole(self) -> Tensor:
        if not self.symmetric:
            return self.x @ self.y.T
        products = self.x.new_empty(self.shape)
        for start in range(0, len(self.x), BLOCK):
            end = start + BLOCK
            products[start:, start:end] = self.x[start:] @ self.x[start:end].T
            products[start:end, end:] = products[end:, start:end].T
        return products

    def tiles(self) -> Iterator[Tile]:
        """Every pair once."""
        if max(self.shape) <= self.tile:
            yield Tile(slice(0, len(self.x)), slice(0, len(self.y)), self._whole)
            return
        for i in range(0, len(self.x), self.tile):
            for j in range(i if self.symmetric else 0, len(self.y), self.tile):
                rows, columns = slice(i, i + self.tile), slice(j, j + self.tile)
                products = self.x[rows] @ self.y[columns].T
                yield Tile(rows, columns, products)
                if self.symmetric and i != j:
                    yield Tile(columns, rows, products.T)

    def distances(self, tile: Tile) -> Tensor:
        """Squared distances (a, b) of a tile, a fresh tensor; 0 for features that fp32 cannot tell apart."""
        norms = self.norms[0][tile.rows, None] + self.norms[1][None, tile.columns]
        squared = torch.sub(norms, tile.products, alpha=2)
        return squared.masked_fill_(squared <= norms.mul_(SAME), 0)
