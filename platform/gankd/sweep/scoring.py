"""The test part is read here and nowhere else: once, for the chosen trial and its baselines. The scores are artifacts too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gankd.config import build_config, digest
from gankd.data import load as load_data
from gankd.method import named
from gankd.pipeline import Job
from gankd.registry import find_method
from gankd.store import Store


def score_keys(job: Job, keys: Mapping[str, str]) -> dict[str, str]:
    """Stage -> key of the artifact that holds its test score, for the artifacts `keys` of a trial."""
    method = find_method(job.method)
    return {
        stage: f"test-{digest({'artifact': keys[stage], 'data': job.fingerprint, 'function': function})}"
        for stage, function in method.scored.items()
    }


def main_scores(scores: Mapping[str, float], objective: str) -> dict[str, float]:
    """Stage -> the test score that answers to the objective: test_accuracy to val_accuracy, test_fid_... to fid_..."""
    wanted = f"test_{objective.partition('/')[2].removeprefix('val_')}"
    found: dict[str, float] = {}
    for name, value in scores.items():
        stage, _, metric = name.partition("/")
        if metric == wanted or stage not in found:
            found[stage] = value
    return found


def known_scores(job: Job, keys: Mapping[str, str]) -> dict[str, float] | None:
    """All test scores as {"<stage>/<metric>": value} when the store has them, else None."""
    store, scores = Store(job.storage), {}
    for stage, key in score_keys(job, keys).items():
        artifact = store.get(key)
        if artifact is None:
            return None
        scores.update({f"{stage}/{name}": value for name, value in artifact.metrics.items()})
    return scores


def make_scores(job: Job, keys: Mapping[str, str]) -> dict[str, float]:
    """Measure what is missing on the test part; all test scores."""
    from gankd.context import choose_device

    store, method = Store(job.storage), find_method(job.method)
    data = load_data(build_config(method.config, job.config).data)
    for stage, key in score_keys(job, keys).items():
        with store.lease(key):
            if store.has(key):
                continue
            artifact = store.get(keys[stage])
            if artifact is None:
                raise LookupError(f"the artifact {keys[stage]} of the chosen trial is gone")
            metrics = named(method.scored[stage])(artifact, data, choose_device())
            manifest: dict[str, Any] = {
                "stage": "test",
                "config": {"of": keys[stage]},
                "inputs": {stage: keys[stage]},
                "metrics": metrics,
                "fingerprint": data.fingerprint,
                "created": time.time(),
            }
            store.publish(key, store.scratch(key), manifest)
    return known_scores(job, keys) or {}
