"""`gankd evaluate`: a registered network on the validation and test parts of the data that it was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from gankd.artifact import Artifact
from gankd.config import build_config
from gankd.data import DataConfig, DataSet, load
from gankd.errors import StageFailed, UserError
from gankd.model_registry import load as fetch
from gankd.model_registry import version_tags
from gankd.stages.sections import QualityConfig
from gankd.store import Store
from gankd.tracking import Tracker

if TYPE_CHECKING:
    from gankd.metrics.extractors import Extractor

TITLES = {
    "fid": "FID",
    "intra_fid": "intra-FID",
    "intra_fid_max": "intra-FID, worst class",
    "kid": "KID",
    "kid_std": "KID, sd of subsets",
    "kmmd": "KMMD",
    "kmmd_fixed": "KMMD, given bandwidth",
    "mmd2_u": "MMD², unbiased",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "is": "IS",
    "is_std": "IS, sd of splits",
    "class_accuracy": "class accuracy, %",
    "real_fid_floor": "FID of real halves",
    "real_is": "IS of real images",
}


def evaluate_registered(model: str, storage: str, changes: Mapping[str, Any]) -> dict[str, float] | Table:
    """Accuracies of a registered classifier, or a table of all metrics of a registered generator.

    `changes` are knobs of `quality`, for generators. Raises UserError for what cannot be measured.
    """
    from gankd import models

    uri = Tracker.default_uri(Path.cwd())
    network, tags = models.load(fetch(uri, model)), version_tags(uri, model)
    data = load(DataConfig(**json.loads(tags["gankd.data_config"])))
    if hasattr(network, "dim_z"):
        return _generator_table(model, network, data, Store(storage), json.loads(tags["gankd.keys"]), changes)
    if changes:
        raise UserError(f"{model!r} is a classifier; {', '.join(f'--{name}' for name in changes)} is for generators")
    return _accuracies(network, data)


def _accuracies(network: Any, data: DataSet) -> dict[str, float]:
    """In percent."""
    from gankd.data.augment import Resident
    from gankd.stages.classifier import accuracy

    return {
        "val_accuracy": accuracy(network, Resident(data.val)),
        "test_accuracy": accuracy(network, Resident(data.test)),
        "test_images": float(len(data.test)),
    }


def _generator_table(
    model: str, network: Any, data: DataSet, store: Store, keys: Mapping[str, str], changes: Mapping[str, Any]
) -> Table:
    from gankd.context import Context, choose_device
    from gankd.metrics.extractors import from_weights
    from gankd.stages.quality import judge_of

    judge, quality = _artifact(store, keys, "judge"), _artifact(store, keys, "quality")
    cfg = build_config(QualityConfig, {**quality.config, **changes})
    # Stage and seed of the sweep: the same latents, so on the same data the same numbers.
    ctx = Context(quality.stage, quality.key, quality.manifest["seed"], Path(), store, choose_device())
    table = Table(title=f"{model}: {cfg.images} generated images", title_justify="left")
    for heading in ("metric", f"validation ({len(data.val)})", f"test ({len(data.test)})"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", overflow="fold")
    said: list[str] = [f"accuracy of the judge on the validation part: {judge.metrics['val_accuracy']:.2f} %"]
    extractors = [judge_of(judge, ctx.device)]
    if cfg.extractor:
        extractors.append(from_weights(cfg.extractor, cfg.weights).to(ctx.device))
    for extractor in extractors:
        _add_metrics(table, said, extractor, *(_measured(ctx, cfg, network, extractor, part) for part in (data.val, data.test)))
    table.caption, table.caption_justify = escape("\n".join(said)), "left"
    return table


def _artifact(store: Store, keys: Mapping[str, str], stage: str) -> Artifact:
    artifact = store.get(keys[stage]) if stage in keys else None
    if artifact is None:
        raise UserError(
            f"the {stage} of this generator ({keys.get(stage, 'none')}) is not in the store {store.storage.uri}; "
            "give the --storage of the sweep that made the generator"
        )
    return artifact


def _measured(ctx: Any, cfg: QualityConfig, network: Any, extractor: Extractor, part: Any) -> tuple[dict[str, float], list[str]]:
    """All metrics against a part of the data, what its real images score themselves, and warnings."""
    from gankd.metrics.suite import cautions, real_side, suite
    from gankd.stages.quality import real_features, sampled_features

    try:
        real = real_features(ctx, cfg, part, extractor)
        fake = sampled_features(ctx, cfg, network.to(ctx.device), extractor, real)
    except StageFailed as error:
        raise UserError(str(error)) from error
    own = {f"real_{name}": value for name, value in real_side(real, extractor.name).items()}
    return suite(real, fake, cfg, extractor.name) | own, cautions(real, fake, extractor.name)


def _add_metrics(table: Table, said: list[str], extractor: Extractor, *parts: tuple[Mapping[str, float], list[str]]) -> None:
    """A row per metric, with the extractor's tag: numbers of two extractors must not be taken for the same metric."""
    for name in parts[0][0]:
        title = TITLES[name.removesuffix(f"_{extractor.name}")]
        if extractor.name == "classifier":
            title = title.replace("IS", "classifier score")
        table.add_row(escape(f"{title}[{extractor.tag}]"), *(_number(found.get(name)) for found, _ in parts))
    for part, (_, warnings) in zip(("validation", "test"), parts, strict=True):
        said += [f"{part}: {warning}" for warning in warnings]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
