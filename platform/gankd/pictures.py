"""Pictures for the tracker and the command line: grids of images, confusions, curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.errors import UserError
from gankd.paths import check_place

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 640  # pixels; small images are enlarged to about this width


def check_writable(path: Path) -> None:
    """Raises UserError when no picture can be written to `path`, for its ending or its place."""
    from PIL import Image

    formats = {suffix: name for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
    try:
        for mode in ("L", "RGB"):
            Image.new(mode, (8, 8)).save(io.BytesIO(), formats[path.suffix.lower()])
    except (KeyError, OSError, ValueError) as error:
        raise UserError(
            f"--out {str(path)!r} has an ending with which no picture can be written; choose one of .png, .jpg, .webp, .tiff"
        ) from error
    check_place(path, "--out")


def sample_grid(images: Tensor, columns: int) -> Any:
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


def heat_map(shares: Tensor) -> Any:
    """A matrix of shares in 0..1 (rows x columns) as a PIL picture, dark to bright, enlarged without smoothing."""
    return sample_grid(shares[None, None].float().mul(2).sub(1), columns=1)


def axis(name: str, unit: str) -> str:
    """What stands beside an axis; unit: empty where the numbers have none."""
    return f"{name}, {unit}" if unit else name


def scatter(x: Tensor, y: Tensor, x_name: str, y_name: str, unit: str) -> Any:
    """Points (x, y), both (N,) and in one unit, on axes of one scale with their diagonal, as a PIL picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    _scatter(figure.add_subplot(xlabel=axis(x_name, unit), ylabel=axis(y_name, unit)), x, y)
    return _drawn(figure)


def _scatter(axes: Any, x: Tensor, y: Tensor) -> None:
    axes.set_aspect("equal")
    axes.scatter(x.cpu().numpy(), y.cpu().numpy(), s=8, alpha=0.5)
    axes.axline((float(x.mean()), float(x.mean())), slope=1, color="grey", linewidth=1)


ERROR_BINS = 20  # of labels, equally wide


def answers_and_errors(labels: Tensor, answers: Tensor, unit: str) -> Any:
    """Answers over labels, both (N,), and beside that the mean absolute error by label, as a PIL picture."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(xlabel=axis("label", unit), ylabel=axis("answer", unit))
    _scatter(left, labels, answers)
    at, errors = labels.cpu().numpy(), (answers - labels).abs().cpu().numpy()
    edges = np.linspace(at.min(), at.max(), ERROR_BINS + 1)
    counts, sums = np.histogram(at, edges)[0], np.histogram(at, edges, weights=errors)[0]
    filled = counts > 0
    right.plot(((edges[1:] + edges[:-1]) / 2)[filled], sums[filled] / counts[filled], marker=".")
    right.set(xlabel=axis("label", unit), ylabel=axis("mean absolute error", unit), ylim=(0, None))
    right.grid(alpha=0.3)
    return _drawn(figure)


def line(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str, *, log_x: bool, title: str) -> Any:
    """Points (x, y, what it is) joined in their order, those with a NaN left out, as a PIL picture."""
    from matplotlib.figure import Figure

    there = [(x, y, name) for x, y, name in points if x == x and y == y]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_name, ylabel=y_name, xscale="log" if log_x else "linear")
    axes.plot([x for x, _, _ in there], [y for _, y, _ in there], marker="x")
    for x, y, name in there:
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(4, 4), fontsize="small")
    axes.grid(alpha=0.3)
    return _drawn(figure)


def _drawn(figure: Any) -> Any:
    """A matplotlib figure as a PIL picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def as_png(picture: Any) -> str:
    """A PIL picture as base64 of PNG, as events carry it."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def trial_curves(curves: Mapping[str, list[tuple[int, float]]], title: str) -> str:
    """Validation curves, one line a trial, as base64 of PNG. `curves`: label -> (step, value) points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step", ylabel=title)
    for label, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), label=label, linewidth=1.5)
    if len(curves) <= 12:
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
