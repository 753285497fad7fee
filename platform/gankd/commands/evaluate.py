"""`gankd evaluate`: a registered network on the validation and test parts of the data that it was made for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from gankd.commands.network import json_tag, registered_data, registered_network, tag
from gankd.config import build_config
from gankd.data import DataSet
from gankd.errors import StageFailed, UserError
from gankd.method import Method, named
from gankd.registry import find_method
from gankd.stages.sections import ContinuousQualityConfig, QualityConfig
from gankd.store import Store
from gankd.store.artifact import Artifact
from gankd.store.storage import KEY
from gankd.tracking.tracker import Tracker

if TYPE_CHECKING:
    from gankd.metrics.extractors import Extractor

TITLES = {
    "fid": "FID",
    "intra_fid": "intra-FID",
    "intra_fid_max": "intra-FID, worst class",
    "sfid": "SFID",
    "sfid_max": "SFID, worst window",
    "kid": "KID",
    "kid_std": "KID, sd of subsets",
    "kmmd": "KMMD",
    "kmmd_fixed": "KMMD, given bandwidth",
    "mmd2_u": "MMD², unbiased",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "spread": "spread within a class or window, 1 = as real",
    "is": "IS",
    "is_std": "IS, sd of splits",
    "class_accuracy": "class accuracy, %",
    "label_score": "label score",
    "real_fid_floor": "FID of real halves",
    "real_is": "IS of real images",
    "real_label_score": "label score of real images",
}


def evaluate_registered(model: str, storage: str, changes: Mapping[str, Any]) -> dict[str, float] | Table:
    """What a registered network scores by its data's task, or a table of all metrics of a registered generator.

    `changes` are knobs of `quality`, for generators. Raises UserError for what cannot be measured.
    """
    from gankd.models.generative import is_generator

    network, tags = registered_network(Tracker.default_uri(Path.cwd()), model)
    data = registered_data(tags, model)
    if is_generator(network):
        return _generator_table(model, find_method(tags["gankd.method"]), data, Store(storage), tags, changes)
    if changes:
        raise UserError(f"{model!r} is no generator; {', '.join(f'--{name}' for name in changes)} is for generators")
    method, role = find_method(tags["gankd.method"]), re.split("[@/]", model)[0].rpartition("-")[2]
    if role in method.measured:
        return _measured_by(method, role, network, data, json_tag(tags, "gankd.config", model))
    return _task_metrics(network, data)


def _measured_by(method: Method, role: str, network: Any, data: DataSet, config: Mapping[str, Any]) -> dict[str, float]:
    """What a method's own function says of its network. What that trains is kept nowhere; it draws as in the sweep."""
    import tempfile

    from gankd.context import Context, choose_device

    with tempfile.TemporaryDirectory() as folder:
        stage = method.registered[role].partition("/")[0]
        ctx = Context(stage, "evaluate", int(config["seed"]), Path(folder), Store(folder), choose_device())
        try:
            found: dict[str, float] = named(method.measured[role])(ctx, network.to(ctx.device), data, config)
        except StageFailed as error:
            raise UserError(str(error)) from error
    return found | {"test_images": float(len(data.test))}


def _task_metrics(network: Any, data: DataSet) -> dict[str, float]:
    """The metric of the data's task on both held-out parts."""
    from gankd.data.augment import Resident
    from gankd.stages.task import task_of

    task, parts = task_of(data), {"val": data.val, "test": data.test}
    measured = {f"{name}_{task.metric}": task.measure(network, Resident(part)) for name, part in parts.items()}
    return measured | {"test_images": float(len(data.test))}


def _generator_table(
    model: str, method: Method, data: DataSet, store: Store, tags: Mapping[str, str], changes: Mapping[str, Any]
) -> Table:
    from gankd.context import Context, choose_device
    from gankd.metrics.extractors import from_weights
    from gankd.stages.quality import extractor_of, made_generator, of_classes
    from gankd.stages.task import task_of

    keys = json_tag(tags, "gankd.keys", model)
    measuring = method.registered["generator"].partition("/")[0]
    made, measured, feature_classifier = (
        _artifact(store, what, key)
        for what, key in (
            ("generator", tag(tags, "gankd.key", model)),
            (measuring, keys.get(measuring, "")),
            ("feature classifier", keys.get(method.roles["extractor"], "")),
        )
    )
    section = QualityConfig if data.label_range is None else ContinuousQualityConfig
    cfg = build_config(section, {**measured.config, **changes})
    # Stage and seed of the sweep: the same latents and so the same numbers.
    ctx = Context(measured.stage, measured.key, measured.manifest["seed"], Path(), store, choose_device())
    generator, classes = made_generator(made, ctx.device)
    parts = {name: of_classes(part, classes) for name, part in (("validation", data.val), ("test", data.test))}
    table = Table(title=f"{model}: {cfg.images} generated images", title_justify="left")
    for heading in ("metric", *(f"{name} ({len(part)})" for name, part in parts.items())):
        table.add_column(heading, justify="left" if heading == "metric" else "right", overflow="fold")
    task = task_of(data)
    known_by = feature_classifier.metrics[f"val_{task.metric}"]
    said: list[str] = [f"{task.metric} of the feature classifier on the validation part: {known_by:.2f} {task.unit}".rstrip()]
    extractors = [extractor_of(feature_classifier, ctx.device)]
    if cfg.extractor:
        extractors.append(from_weights(cfg.extractor, cfg.weights).to(ctx.device))
    for extractor in extractors:
        _add_metrics(table, said, extractor, *(_measured(ctx, cfg, generator, extractor, part) for part in parts.values()))
    table.caption, table.caption_justify = escape("\n".join(said)), "left"
    return table


def _artifact(store: Store, what: str, key: object) -> Artifact:
    artifact = store.get(key) if isinstance(key, str) and KEY.fullmatch(key) else None
    if artifact is None:
        raise UserError(
            f"the {what} of this model ({key or 'none known'}) is not in the store {store.storage.uri}; "
            "give the --storage of the sweep that made it"
        )
    return artifact


def _measured(ctx: Any, cfg: QualityConfig, network: Any, extractor: Extractor, part: Any) -> tuple[dict[str, float], list[str]]:
    """All metrics against a part of the data, what its real images score themselves, and warnings."""
    from gankd.metrics.collapse import collapse
    from gankd.metrics.suite import cautions, real_side, suite, windows_of
    from gankd.stages.quality import real_features, sampled_features

    try:
        real = real_features(ctx, cfg, part, extractor)
        fake = sampled_features(ctx, cfg, network, extractor, real)
    except StageFailed as error:
        raise UserError(str(error)) from error
    own = {f"real_{name}": value for name, value in real_side(real, extractor.name).items()}
    found = suite(real, fake, cfg, extractor.name)
    return found | own, [*cautions(real, fake, extractor.name, windows_of(real, cfg)), *collapse(found)]


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
