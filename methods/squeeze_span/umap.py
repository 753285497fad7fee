"""Figure 2: what a discriminator, a latent and a generator's maps say of generated images, in two dimensions.

    python -m methods.squeeze_span.umap [--preset digits] [--set KNOB=VALUE] [--images 2000] [--storage runs] [--out umap.png]

Needs `pip install 'gankd[umap]'`. Generator, pool and classifier come from the store, or are made. An image's colour is the
class that the feature classifier sees in it. Two numbers beside each picture owe nothing to UMAP: how many of an image's
ten nearest neighbours have its class, and how many of a held-out half a linear classifier tells, both in percent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from gankd.config import build_config, parse_overrides, read_preset, with_knobs
from gankd.errors import StageFailed, UserError
from gankd.paths import absolute_path

NEIGHBOURS, BATCH = 10, 100
STAGES = ("feature_classifier", "gan", "pool")


def embedded(features: np.ndarray, seed: int) -> np.ndarray:
    """(N, d) -> (N, 2), by UMAP. Raises UserError where it is not installed."""
    try:
        import umap
    except ImportError:
        raise UserError("this picture needs UMAP: pip install 'gankd[umap]'") from None
    places: np.ndarray = umap.UMAP(random_state=seed).fit_transform(features)
    return places


def purity(features: np.ndarray, classes: np.ndarray) -> float:
    """Percent of the ten nearest neighbours, by cosine, that have an image's own class."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine").fit(features)
    near = search.kneighbors(features, return_distance=False)[:, 1:]
    return 100 * float((classes[near] == classes[:, None]).mean())


def told(features: np.ndarray, classes: np.ndarray) -> float:
    """Top-1 in percent of a linear classifier on every second image, fitted to the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = StandardScaler().fit_transform(features)
    fitted = LogisticRegression(max_iter=1000).fit(features[::2], classes[::2])
    return 100 * float(fitted.score(features[1::2], classes[1::2]))


def representations(preset: str, knobs: dict[str, Any], storage: str, images: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Name -> features (N, d) of the pool's first images, and the class (N,) that the feature classifier sees in each."""
    import torch

    from gankd.data import load
    from gankd.data.augment import normalise
    from gankd.naming import stage_keys
    from gankd.pipeline import Job, run
    from gankd.registry import find_method
    from gankd.stages.classifier import load_network
    from gankd.store import Store
    from methods.squeeze_span.pool import Rows, numbers
    from methods.squeeze_span.stages import discriminator_encoder

    method = find_method("squeeze_span")
    config = build_config(method.config, with_knobs(read_preset(method.presets, preset), knobs), source=f"preset {preset}")
    run(Job(method.name, config.model_dump(mode="json"), storage, stages=STAGES))
    data, store = load(config.data), Store(storage)
    keys = stage_keys(method, config, data.fingerprint)
    classifier, gan, pool = (store.get(keys[stage]) for stage in STAGES)
    assert classifier is not None
    assert gan is not None
    assert pool is not None
    rows = Rows.of(pool)
    if images > len(rows.images):
        raise UserError(f"--images {images} is more than the {len(rows.images)} of the pool: ask for less, or --set pool.images")
    pixels = normalise(torch.from_numpy(np.array(rows.images[:images])))
    with torch.no_grad():
        network: Any = load_network(classifier)
        critic = discriminator_encoder(data, gan, multi=True).eval()
        classes = torch.cat([network(part).argmax(1) for part in pixels.split(BATCH)]).numpy()
        discriminator = torch.cat([critic(part) for part in pixels.split(BATCH)])
    kept = [numbers(torch.from_numpy(np.array(each[:images]))) for each in (rows.latents, rows.features)]
    if len(set(classes.tolist())) < 2:
        raise UserError("the feature classifier sees one class in all images of the pool, so there is nothing to colour")
    return {"discriminator": discriminator.numpy(), "latent": kept[0].numpy(), "generator": kept[1].numpy()}, classes


def picture(found: dict[str, np.ndarray], classes: np.ndarray, seed: int) -> Any:
    """The three side by side, as a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.4), layout="constrained")
    for axes, (name, features) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        places = embedded(features, seed)
        axes.scatter(*places.T, c=classes, cmap="hsv", s=6, alpha=0.5)
        numbers = f"neighbours of its class {purity(features, classes):.1f} %, linear {told(features, classes):.1f} %"
        axes.set(title=f"{name}, {features.shape[1]} numbers\n{numbers}", xticks=[], yticks=[])
    return figure


@click.command(help=__doc__)
@click.option("--preset", default="digits", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KNOB=VALUE")
@click.option("--images", default=2000, show_default=True, type=click.IntRange(50))
@click.option("--storage", default="runs", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default="umap.png", show_default=True, type=click.Path(dir_okay=False, path_type=Path))
def main(preset: str, assignments: tuple[str, ...], images: int, storage: str, seed: int, out: Path) -> None:
    from gankd.pictures import check_writable

    try:
        check_writable(out)
        embedded(np.random.default_rng(0).normal(size=(20, 3)), seed)  # before any work
        root = storage if "://" in storage else absolute_path(storage, "--storage")
        found, classes = representations(preset, parse_overrides(assignments), root, images)
        picture(found, classes, seed).savefig(out, dpi=110)
    except (UserError, StageFailed) as error:
        raise SystemExit(_refused(str(error))) from None
    click.echo(f"wrote {out}")


def _refused(sentence: str) -> int:
    click.echo(f"error: {sentence}", err=True)
    return 2


if __name__ == "__main__":
    main()
