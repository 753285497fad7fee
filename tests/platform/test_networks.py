"""Networks of a method: recipes may name them once the method has been found, and whoever loads a recipe finds it first."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankd import models
from gankd.code import code_of
from gankd.commands import evaluate, sample
from gankd.data import DataConfig
from gankd.errors import UserError
from gankd.registry import find_method

EXTRACTOR = {"classes": 10, "image_channels": 1, "image_size": 8, "trunk": "small", "width": 4}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has found no method yet."""
    own = find_method("cgan_kd").networks
    monkeypatch.setattr(models, "MODELS", {name: place for name, place in models.MODELS.items() if name not in own})


def test_a_methods_networks_can_be_built_once_it_has_been_found() -> None:
    with pytest.raises(UserError, match="unknown network 'feature_extractor'"):
        models.build("feature_extractor", **EXTRACTOR)
    for _ in range(2):
        find_method("cgan_kd")
    assert models.build("feature_extractor", **EXTRACTOR).recipe == {"name": "feature_extractor", **EXTRACTOR}


def test_a_name_means_one_network() -> None:
    before = dict(models.MODELS)
    with pytest.raises(UserError, match=r"'resnet20' means gankd\.models\.resnet:resnet20 already, not lab\.nets:Tiny"):
        models.allow({"tiny": "lab.nets:Tiny", "resnet20": "lab.nets:Tiny"})
    assert before == models.MODELS


def test_commands_find_the_method_of_a_registered_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_method("cgan_kd")
    models.save(models.build("feature_extractor", **EXTRACTOR), tmp_path)
    data = DataConfig(name="digits", train_images=200, val_fraction=0.25)
    for command in (evaluate, sample):
        monkeypatch.setattr(command, "fetch", lambda *_: tmp_path)
        tags = {"gankd.method": "cgan_kd", "gankd.data_config": data.model_dump_json()}
        monkeypatch.setattr(command, "version_tags", lambda *_, tags=tags: tags)
    models.MODELS.pop("feature_extractor")
    assert set(evaluate.evaluate_registered("student", "store", {})) == {"val_accuracy", "test_accuracy", "test_images"}
    models.MODELS.pop("feature_extractor")
    with pytest.raises(UserError, match="is not a generator"):
        sample.write_samples("student", tmp_path / "grid.png", 2, 0)


def test_the_extractors_network_is_part_of_its_stages_code() -> None:
    method = find_method("cgan_kd")
    run = method.stage("extractor").run
    assert code_of(run, tuple(method.networks.items())) != code_of(run)
