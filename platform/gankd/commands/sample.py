"""What one does with a registered generator: sample it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.commands.network import registered_data, registered_network
from gankd.errors import UserError
from gankd.text import shortened
from gankd.tracking.tracker import Tracker

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 10  # of a generator that knows no classes


def write_samples(model: str, out: Path, per_class: int, seed: int, labels: str | None = None) -> None:
    """Write a picture with a row per label of a registered generator: of `labels`, "0,3" or "-90,0,90", in the data's unit.

    Without any, all classes, or numbers from one end of the data's range to the other.

    Raises UserError when the model is no generator or damaged, or knows no such labels, and, before any work, when `out` cannot
    be written.
    """
    from gankd.pictures import check_writable

    check_writable(out)
    import torch

    from gankd.models.generative import is_generator
    from gankd.pictures import sample_grid

    generator, tags = registered_network(Tracker.default_uri(Path.cwd()), model)
    if not is_generator(generator):
        raise UserError(f"{model!r} is not a generator; try a name that ends in -generator")
    rows = _all_labels(generator, tags, model) if labels is None else _named_labels(generator, labels, model)
    z = generator.latents(len(rows) * per_class, torch.Generator().manual_seed(seed))
    wanted = rows.repeat_interleave(per_class)  # which one that takes none does not look at
    with torch.no_grad():
        images = torch.cat([generator(*part) for part in zip(z.split(500), wanted.split(500))])
    try:
        sample_grid(images, columns=per_class).save(out)
    except Exception as error:  # whatever an encoder raises, of a picture that is too large for its format
        raise UserError(f"--out {str(out)!r} cannot be written ({error}); choose another file") from error


def _all_labels(generator: Any, tags: Mapping[str, str], model: str) -> Tensor:
    """A row for each class; without classes some rows, of numbers over the range that the data has."""
    import torch

    if generator.classes != "continuous":
        return torch.arange(ROWS if generator.classes is None else generator.classes)
    data = registered_data(tags, model)
    if data.label_range is None:
        raise UserError(f"data set {data.name!r} of {model!r} tells no range of its labels; name some, e.g. --labels 0,0.5,1")
    return torch.linspace(*data.label_range, ROWS)


def _named_labels(generator: Any, labels: str, model: str) -> Tensor:
    """The user's labels, as the generator takes them."""
    import torch

    if generator.classes is None:
        raise UserError(f"{model!r} takes no labels; leave --labels out")
    kind, what = (float, "numbers") if generator.classes == "continuous" else (int, "the numbers of classes")
    try:
        found = [kind(text) for text in labels.split(",")]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(label) for label in found):
        raise UserError(f"--labels {shortened(labels)} must be {what}, separated by commas")
    if kind is float:
        return torch.tensor(found, dtype=torch.float32)
    if wrong := [label for label in found if not 0 <= label < generator.classes]:
        raise UserError(f"--labels names class {wrong[0]}, and {model!r} has the classes 0 to {generator.classes - 1}")
    return torch.tensor(found, dtype=torch.long)
