"""Pictures for the tracker and the command line: sheets of images, bars of gains."""

from __future__ import annotations

from typing import Any

from torch import Tensor

SIDE = 640  # pixels; small images are enlarged to about this width


def sheet(images: Tensor, columns: int) -> Any:
    """Images (N, C, H, W) in [-1, 1] as one PIL picture, filled row by row, enlarged without smoothing."""
    import numpy as np
    from PIL import Image

    grey = images.detach().float().cpu().mul(127.5).add(127.5).round().clamp(0, 255).byte().numpy()
    n, channels, height, width = grey.shape
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, channels, height, width), np.uint8)
    canvas[:n] = grey
    grid = canvas.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    picture = Image.fromarray(grid[..., 0] if channels == 1 else grid)
    scale = max(1, SIDE // picture.width)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
