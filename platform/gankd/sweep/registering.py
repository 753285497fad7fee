"""The chosen trial's networks as versions of registered models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gankd.errors import UserError
from gankd.method import flatten
from gankd.metrics.directions import direction
from gankd.store import Store
from gankd.sweep.conclusion import comparable_facts, notes
from gankd.sweep.jobs import Cluster, bring_about
from gankd.sweep.plan import Sweep
from gankd.sweep.records import TrialRecord
from gankd.tracking.tracker import Tracker

if TYPE_CHECKING:
    from torch import Tensor, nn


def network_and_example(folder: Path) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A saved network and an example of what it takes, two of each: latents and labels, or images."""
    import torch

    from gankd import models
    from gankd.models.generative import is_generator

    network = models.load(folder)
    if is_generator(network):
        return network, network.example()
    size = network.recipe["image_size"]
    return network, (torch.zeros(2, network.recipe["image_channels"], size, size),)


def _folder(sweep: Sweep, best: TrialRecord, stage: str, cluster: Cluster) -> Path:
    """The stage's artifact of the chosen trial, verified; one that is damaged or gone is made again."""
    key, store = best.keys[stage], Store(sweep.storage)
    artifact = store.get(key)
    if artifact is None:
        ((outcome,),) = bring_about(sweep, [[sweep.job(best.knobs, best.trial, (stage,))]], cluster)
        artifact = store.get(key)
        if artifact is None:
            raise UserError(f"the artifact {key} of the chosen trial is damaged and could not be made again: {outcome.failure}")
    return artifact.path


def register_best(sweep: Sweep, best: TrialRecord, tests: Mapping[str, float], tracker: Tracker, cluster: Cluster) -> list[str]:
    """Make the chosen trial's networks versions of `<dataset>-<role>`; a sentence about each."""
    from gankd.tracking.model_registry import register

    store, messages = Store(sweep.storage), []
    for role, metric in sweep.method.registered.items():
        stage = sweep.method.roles[role]
        key, folder = best.keys[stage], partial(_folder, sweep, best, stage, cluster)
        version = register(
            tracker.uri,
            f"{sweep.dataset}-{role}",
            lambda folder=folder: network_and_example(folder()),  # type: ignore[misc]
            folder,
            key=key,
            metrics={**best.metrics, **tests},
            metric=metric,
            mode=direction(metric) or sweep.space.mode,
            facts=comparable_facts(sweep, best, store, metric),
            run_id=tracker.run_of(key=key),
            shown_by=(tracker.run_of(), tracker.run_of(trial=best.trial)),
            tags={
                "gankd.method": sweep.method.name,
                "gankd.sweep": sweep.name,
                "gankd.trial": best.trial,
                "gankd.data_config": json.dumps(sweep.config_of(best.knobs).data.model_dump(mode="json")),
                "gankd.config": json.dumps(flatten(sweep.config_of(best.knobs))),
                "gankd.keys": json.dumps(best.keys),
                "gankd.notes": "; ".join(notes(best, store)),
            },
        )
        state = "registered" if version.new else "already registered"
        reason = f": {version.reason}" if version.reason else ""
        value = f"{metric} {best.metrics[metric]:.4g}"
        messages.append(f"{state} {version.name} version {version.version} ({version.alias}; {value}){reason}")
    return messages
