"""What one does with a registered generator: sample it."""

from __future__ import annotations

from pathlib import Path

from gankd.errors import UserError
from gankd.registry import find_method
from gankd.tracking.model_registry import load as fetch
from gankd.tracking.model_registry import version_tags
from gankd.tracking.tracker import Tracker


def write_samples(model: str, out: Path, per_class: int, seed: int) -> None:
    """Write a picture with a row per class of a registered generator. Raises UserError when the model is no generator."""
    import torch

    from gankd import models
    from gankd.models.generative import is_generator
    from gankd.pictures import sample_grid

    uri = Tracker.default_uri(Path.cwd())
    find_method(version_tags(uri, model)["gankd.method"])  # its recipe may name a network of the method's own
    generator = models.load(fetch(uri, model))
    if not is_generator(generator):
        raise UserError(f"{model!r} is not a generator; try a name that ends in -generator")
    if not out.parent.is_dir():
        raise UserError(f"the folder of --out {str(out)!r} does not exist")
    z = generator.latents(generator.classes * per_class, torch.Generator().manual_seed(seed))
    labels = torch.arange(generator.classes).repeat_interleave(per_class)
    with torch.no_grad():
        images = torch.cat([generator(*part) for part in zip(z.split(500), labels.split(500))])
    sample_grid(images, columns=per_class).save(out)
