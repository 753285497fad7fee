"""What one does with a registered generator: sample it."""

from __future__ import annotations

from pathlib import Path

from gankd.commands.network import registered_network
from gankd.errors import UserError
from gankd.tracking.tracker import Tracker

ROWS = 10  # of a generator that knows no classes


def write_samples(model: str, out: Path, per_class: int, seed: int) -> None:
    """Write a picture with a row per class of a registered generator.

    Raises UserError when the model is no generator or damaged, and, before any work, when `out` cannot be written.
    """
    from gankd.pictures import check_writable

    check_writable(out)
    import torch

    from gankd.models.generative import is_generator
    from gankd.pictures import sample_grid

    generator, _ = registered_network(Tracker.default_uri(Path.cwd()), model)
    if not is_generator(generator):
        raise UserError(f"{model!r} is not a generator; try a name that ends in -generator")
    classes = ROWS if generator.classes is None else generator.classes
    z = generator.latents(classes * per_class, torch.Generator().manual_seed(seed))
    labels = torch.arange(classes).repeat_interleave(per_class)  # which one that takes none does not look at
    with torch.no_grad():
        images = torch.cat([generator(*part) for part in zip(z.split(500), labels.split(500))])
    try:
        sample_grid(images, columns=per_class).save(out)
    except Exception as error:  # whatever an encoder raises, of a picture that is too large for its format
        raise UserError(f"--out {str(out)!r} cannot be written ({error}); choose another file") from error
