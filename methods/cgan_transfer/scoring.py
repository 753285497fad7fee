"""The test part: read once, for the chosen trial's generators."""

from __future__ import annotations

from typing import Any, cast

import torch

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.metrics.extractors import classifier
from gankd.stages.quality import Renumbered, real_features, score_network
from gankd.stages.sections import QualityConfig
from gankd.store.artifact import Artifact
from methods.cgan_transfer.config import TaskConfig
from methods.cgan_transfer.task import of_classes, old_and_new
from methods.cgan_transfer.training import FEATURE_CLASSIFIER


def score(artifact: Artifact, data: DataSet, device: torch.device | str = "cpu") -> dict[str, float]:
    """FID, KID and intra-FID against the test images of the new classes."""
    reads = artifact.manifest["sections"]
    quality = QualityConfig(**reads["quality"])
    _, new = old_and_new(TaskConfig(**reads["task"]), data, pretrained=True)
    # A context of one process: no store and no events are needed to measure.
    ctx = Context("test", artifact.key, artifact.manifest["seed"], artifact.path, cast(Any, None), torch.device(device))
    feature_classifier = classifier(models.load(artifact.path / FEATURE_CLASSIFIER)).to(device)
    real = real_features(ctx, quality, of_classes(data.test, new, renumber=False), feature_classifier)
    generator = Renumbered(models.load(artifact.path).to(device), new, device)
    found = score_network(ctx, quality, generator, feature_classifier, real)
    return {f"test_{name}": found[name] for name in found if name.startswith(("fid_", "kid_c", "intra_fid_c"))}
