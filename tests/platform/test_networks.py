"""Networks of a method: recipes may name them once the method has been found, and whoever loads a recipe finds it first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gankd import models
from gankd.code import code_of
from gankd.commands import evaluate, network, sample
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


def registered(monkeypatch: pytest.MonkeyPatch, folder: Path, data: DataConfig, **tags: str | None) -> None:
    """What a tracking server would give: the files in `folder`, and tags (None takes one away)."""
    everything = {"gankd.method": "cgan_kd", "gankd.data_config": data.model_dump_json(), **tags}
    monkeypatch.setattr(network, "fetch", lambda *_: folder)
    monkeypatch.setattr(network, "version_tags", lambda *_: {k: v for k, v in everything.items() if v is not None})


def test_commands_find_the_method_of_a_registered_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_method("cgan_kd")
    models.save(models.build("feature_extractor", **EXTRACTOR), tmp_path)
    data = DataConfig(name="digits", train_images=200, val_fraction=0.25)
    registered(monkeypatch, tmp_path, data)
    models.MODELS.pop("feature_extractor")
    assert set(evaluate.evaluate_registered("student", "store", {})) == {"val_accuracy", "test_accuracy", "test_images"}
    models.MODELS.pop("feature_extractor")
    with pytest.raises(UserError, match="is not a generator"):
        sample.write_samples("student", tmp_path / "grid.png", 2, 0)


DAMAGES: dict[str, tuple[Any, str]] = {
    "no recipe": (lambda f: (f / "recipe.json").unlink(), "recipe.json"),
    "an empty recipe": (lambda f: (f / "recipe.json").write_text(""), "damaged"),
    "a recipe that is a list": (lambda f: (f / "recipe.json").write_text("[1]"), "damaged"),
    "a recipe of nothing": (lambda f: (f / "recipe.json").write_text("{}"), "damaged"),
    "an unknown network": (lambda f: (f / "recipe.json").write_text('{"name": "resnet21"}'), "unknown network 'resnet21'"),
    "unknown arguments": (lambda f: (f / "recipe.json").write_text('{"name": "resnet20", "depth": 3}'), "depth"),
    "another network": (lambda f: (f / "recipe.json").write_text('{"name": "resnet20", "classes": 3}'), "damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "damaged"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged"),
    "cut weights": (lambda f: os.truncate(f / "model.safetensors", 2000), "damaged"),
    "a page": (lambda f: (f / "model.safetensors").write_text("<html></html>"), "damaged"),
    "weights that are a folder": (lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()), "damaged"),
    "NaN": (lambda f: spoil(f / "model.safetensors"), "has NaN or infinite numbers in 'linear.weight'"),
}


def spoil(file: Path) -> None:
    save_file({**load_file(file), "linear.weight": load_file(file)["linear.weight"] * torch.nan}, file)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_registered_model_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    damage, said = DAMAGES[kind]
    models.save(models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=4), tmp_path)
    damage(tmp_path)
    registered(monkeypatch, tmp_path, DataConfig(name="digits"))
    for use in (
        lambda: evaluate.evaluate_registered("digits-student", "store", {}),
        lambda: sample.write_samples("digits-student", tmp_path / "grid.png", 2, 0),
    ):
        with pytest.raises(UserError, match=said) as error:
            use()
        assert "'digits-student'" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"gankd.method": None}, "has no tag 'gankd.method'"),
        ({"gankd.data_config": None}, "has no tag 'gankd.data_config'"),
        ({"gankd.data_config": "{"}, "tag 'gankd.data_config' of the registered model 'digits-student' is damaged"),
        ({"gankd.data_config": "[1]"}, "is damaged"),
        ({"gankd.data_config": '{"name": "digits", "siez": 3}'}, "siez"),
    ],
)
def test_a_registered_model_with_damaged_tags_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str | None], said: str
) -> None:
    models.save(models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=4), tmp_path)
    registered(monkeypatch, tmp_path, DataConfig(name="digits"), **tags)
    with pytest.raises(UserError, match=said):
        evaluate.evaluate_registered("digits-student", "store", {})


OUTS = {
    "grid.xyz": "an ending with which no picture can be written; choose one of .png",
    "grid": "an ending with which",
    "grid.xbm": "an ending with which",
    "nowhere/grid.png": "does not exist; make it",
    f"{'g' * 300}.png": "cannot be written",
    "file.txt/grid.png": "does not exist",
    "taken.png": "cannot be written",
}


@pytest.mark.parametrize("out", OUTS)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "taken.png").mkdir()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(sample, "registered_network", lambda *_: pytest.fail("the network was fetched"))
    with pytest.raises(UserError, match=OUTS[out]) as error:
        sample.write_samples("digits-generator", tmp_path / out, 2, 0)
    assert str(tmp_path / out) in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".webp", ".gif"])
def test_a_picture_is_written_with_every_usual_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    generator = models.build("biggan", image_size=8, classes=3, image_channels=1, width=2, dim_z=4).eval()
    monkeypatch.setattr(sample, "registered_network", lambda *_: (generator, {}))
    sample.write_samples("digits-generator", tmp_path / f"grid{suffix}", 2, 0)
    assert (tmp_path / f"grid{suffix}").stat().st_size > 100


def test_the_extractors_network_is_part_of_its_stages_code() -> None:
    method = find_method("cgan_kd")
    run = method.stage("extractor").run
    assert code_of(run, tuple(method.networks.items())) != code_of(run)
