"""The images made so far: a ring of uint8 images on the device, saved with the checkpoint. No file is written in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.errors import UserError


class Pool(nn.Module):
    """The newest `capacity` images (C, H, W) with the labels they were made for."""

    images: Tensor
    labels: Tensor

    def __init__(self, capacity: int, channels: int, size: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        device = torch.device(device)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            if capacity * channels * size**2 > free:
                raise UserError(
                    f"knob 'student.pool' cannot be {capacity}: that many images of {size} px do not fit into the "
                    f"{free / 2**30:.1f} GiB that are free on the device; choose a smaller pool"
                )
        self.register_buffer("images", torch.zeros(capacity, channels, size, size, dtype=torch.uint8, device=device))
        self.register_buffer("labels", torch.zeros(capacity, dtype=torch.int64, device=device))
        self.written = 0
        self._order: tuple[tuple[int, int, int], Tensor] | None = None

    def __len__(self) -> int:
        return min(self.written, len(self.images))

    def append(self, images: Tensor, labels: Tensor) -> None:
        """Write uint8 images (n, C, H, W) and labels (n,) over the oldest ones."""
        place = torch.arange(self.written, self.written + len(images), device=self.images.device) % len(self.images)
        # Of more images than there is room for, the last ones stay.
        keep = slice(max(0, len(images) - len(self.images)), None)
        self.images[place[keep]] = images[keep].to(self.images.device)
        self.labels[place[keep]] = labels[keep].to(self.labels.device)
        self.written += len(images)

    def walk(self, ctx: Context, position: int, n: int) -> Tensor:
        """`n` indices from `position` of a walk in which every pass shows each image that is there exactly once.

        A function of the state and the position; the walk is another one whenever images have been added.
        """
        parts, wanted = [], n
        while wanted:
            turn, place = divmod(position, len(self))
            parts.append(self._permutation(ctx, turn)[place : place + wanted])
            position, wanted = position + len(parts[-1]), wanted - len(parts[-1])
        return torch.cat(parts)

    def _permutation(self, ctx: Context, turn: int) -> Tensor:
        name = (self.written, turn, ctx.seed)
        if self._order is None or self._order[0] != name:
            rng = ctx.rng(turn, f"pool{self.written}")
            self._order = name, torch.randperm(len(self), generator=rng, device=rng.device)
        return self._order[1]

    def newest(self, n: int) -> tuple[Tensor, Tensor]:
        """The last `n` images and labels, or all there are, oldest first."""
        n = min(n, len(self))
        place = torch.arange(self.written - n, self.written, device=self.images.device) % len(self.images)
        return self.images[place], self.labels[place]

    def get_extra_state(self) -> dict[str, Any]:
        return {"written": self.written}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.written, self._order = int(state["written"]), None
