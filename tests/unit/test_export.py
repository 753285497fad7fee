"""`gankd export`: files that other programs read, the same outputs, and nothing left where it cannot be done."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from gankd import models
from gankd.cli import cli
from gankd.commands import export, export_images
from gankd.commands.export import export_network
from gankd.data import DataConfig, load
from gankd.errors import UserError
from gankd.models.biggan_import import import_generator
from gankd.models.classifier_import import load_checkpoint
from gankd.store import Store

TAGS = {
    "gankd.method": "cgan_kd",
    "gankd.data": "0123abcd",
    "gankd.sweep": "mine",
    "gankd.value": "89.66666",
    "gankd.mode": "max",
    "gankd.comparable": json.dumps({"metric": "val_accuracy"}),
    "gankd.config": json.dumps({"seed": 3, "student.lr": 0.05}),
    "gankd.data_config": json.dumps({"name": "digits"}),
}
FORMATS = ("safetensors", "onnx", "torch-export")


def student(**further: Any) -> Any:
    torch.manual_seed(0)
    network = models.build("resnet20", classes=10, image_size=32, image_channels=3, **further)
    return network.eval()


def generator() -> Any:
    torch.manual_seed(0)
    return models.build("biggan", image_size=8, classes=10, image_channels=1, width=4, dim_z=8).eval()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], None]:
    """Makes a network the one that is registered, in a folder where no sweep is tracked."""
    monkeypatch.chdir(tmp_path)

    def register(network: Any) -> None:
        monkeypatch.setattr(export, "registered_network", lambda uri, model: (network, TAGS))

    return register


@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_are_the_same_and_the_example_runs(
    kind: str, tmp_path: Path, registered: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    registered(generator())
    made = export_network("digits-generator@champion", kind, tmp_path / "out", "")
    assert made.difference <= 1e-5
    text = (tmp_path / "out" / "example.py").read_text()
    assert "import gankd" not in text
    assert "from gankd" not in text
    with torch.no_grad():
        runpy.run_path(str(tmp_path / "out" / "example.py"))
    said = capsys.readouterr().out
    assert kind == "safetensors" or float(said.split()[-1]) <= 1e-5


def test_a_generator_that_combines_old_classes_is_exported(tmp_path: Path, registered: Callable[[Any], None]) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "image_channels": 1, "width": 4, "dim_z": 12, "hierarchical": True}
    registered(models.build("biggan_transfer", old_classes=5, classes=3, **sizes).eval())
    assert export_network("digits-generator", "torch-export", tmp_path / "out", "").difference <= 1e-5


def test_weights_have_the_names_of_public_implementations(tmp_path: Path, registered: Callable[[Any], None]) -> None:
    network = student(normalisation=[[0.5] * 3, [0.25] * 3])
    registered(network)
    export_network("digits-student", "safetensors", tmp_path / "student", "")
    plain = student()
    said = load_checkpoint(plain, tmp_path / "student" / "model.safetensors")
    assert not said.renamed
    assert {"conv1.weight", "layer1.0.bn1.running_mean", "linear.bias"} <= load_file(
        tmp_path / "student" / "model.safetensors"
    ).keys()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(images), plain(((images + 1) / 2 - 0.5) / 0.25))
    registered(generator())
    export_network("digits-generator", "safetensors", tmp_path / "generator", "")
    again = import_generator(load_file(tmp_path / "generator" / "model.safetensors")).eval()
    inputs = export.example_inputs(again)
    torch.testing.assert_close(again(*inputs.values()), generator()(*inputs.values()))


def test_the_card_says_what_it_is(tmp_path: Path, registered: Callable[[Any], None]) -> None:
    registered(student())
    export_network("digits-student@champion", "safetensors", tmp_path / "out", "BSD-3-Clause")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "cGAN-KD",
        "resnet20",
        "BSD-3-Clause",
        "0123abcd",
        "val_accuracy 89.67",
        "seed 3",
        "`student.lr`: 0.05",
        "(n, 3, 32, 32)",
    ):
        assert part in card


def test_other_outputs_and_a_full_folder_are_refused_and_nothing_is_left(
    tmp_path: Path, registered: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(student())
    monkeypatch.setitem(export.WRITERS, "onnx", lambda network, inputs, out: lambda images: network(images) + 1e-2)
    with pytest.raises(UserError, match="gives other outputs"):
        export_network("digits-student", "onnx", tmp_path / "out", "")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        export_network("digits-student", "safetensors", tmp_path / "out", "")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", ["hdf5", "folder"])
def test_images_are_read_back_as_a_data_set(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "runs"))
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    labels = np.repeat(np.arange(10), 4)
    scratch = store.scratch("samples-00000000000000000000")
    np.save(scratch / "images.npy", images)
    np.save(scratch / "labels.npy", labels)
    store.publish("samples-00000000000000000000", scratch, {"stage": "samples", "metrics": {}})
    tags = TAGS | {"gankd.keys": json.dumps({"samples": "samples-00000000000000000000"})}
    monkeypatch.setattr(export_images, "version_tags", lambda uri, model: tags)
    out, storage = tmp_path / "out", str(tmp_path / "runs")
    said = export_images.export_images("digits-student", "samples", kind, out, storage)
    assert "40 images" in said
    config = {"name": "hdf5", "path": str(out / "images.h5")} if kind == "hdf5" else {"name": "folder", "path": str(out)}
    data = load(DataConfig(**config, val_fraction=0.25, train_images=None))
    parts = [part for part in (data.train, data.val, data.test_part) if part is not None]
    found = {(image.tobytes(), int(label)) for part in parts for image, label in zip(part.images, part.labels, strict=True)}
    assert found == {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
    with pytest.raises(UserError, match="no stage 'fakes'"):
        export_images.export_images("digits-student", "fakes", kind, tmp_path / "other", storage)


@pytest.mark.parametrize("flags", [["--format", "hdf5"], ["--stage", "samples"]])
def test_formats_of_images_go_with_a_stage(flags: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["export", "digits-student", "--out", str(tmp_path / "out"), *flags])
    assert isinstance(result.exception, UserError)
    assert "--stage goes with" in str(result.exception)
