"""What one does with registered models: sample a generator, compare methods."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from gankd.config import nearest
from gankd.data import NAMES
from gankd.errors import UserError
from gankd.model_registry import compare
from gankd.model_registry import load as fetch
from gankd.tracking import Tracker


def _uri() -> str:
    return Tracker.default_uri(Path.cwd())


def sample_sheet(model: str, out: Path, per_class: int, seed: int) -> None:
    """Write a picture with a row per class of a registered generator. Raises UserError when the model is no generator."""
    import torch

    from gankd import models
    from gankd.pictures import sheet

    generator = models.load(fetch(_uri(), model))
    if not hasattr(generator, "dim_z"):
        raise UserError(f"{model!r} is not a generator; try a name that ends in -generator")
    if not out.parent.is_dir():
        raise UserError(f"the folder of --out {str(out)!r} does not exist")
    z = torch.randn(generator.classes * per_class, generator.dim_z, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(generator.classes).repeat_interleave(per_class)
    with torch.no_grad():
        images = torch.cat([generator(*part) for part in zip(z.split(500), labels.split(500))])
    sheet(images, columns=per_class).save(out)


def comparison(dataset: str) -> Table:
    """The best sweep of each method on a data set. Raises UserError when there is none."""
    if dataset not in NAMES:
        raise UserError(f"unknown data set {dataset!r}{nearest(dataset, NAMES)} (known: {', '.join(NAMES)})")
    rows = compare(_uri(), dataset)
    if not rows:
        raise UserError(f"no finished sweep on data set {dataset!r} is tracked at {_uri()}")
    table = Table(title=f"methods on {dataset}: best sweep of each, chosen on validation", title_justify="left")
    headings = (
        "method",
        "student val",
        "student test",
        "control test",
        "gain",
        "baseline test",
        "teacher test",
        "sweep",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("method", "sweep") else "right")
    for row in rows:
        values = [row["val"], row["test"], row["control"], row["gain"]]
        values += [row["metrics"].get("test/baseline"), row["metrics"].get("test/teacher")]
        table.add_row(row["method"], *("" if value is None else f"{value:.2f}" for value in values), row["sweep"])
    if len({row["data"] for row in rows}) > 1:
        table.caption = "these sweeps did not all read the same images: their data fingerprints differ"
    return table
