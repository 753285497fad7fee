"""A sweep of cGANTransfer by the real `tune.py`, one that starts from a checkpoint, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd import models
from gankd.method import named
from gankd.registry import find_method
from gankd.tracking.model_registry import load as fetch
from tests.conftest import Workplace
from tests.end_to_end.conftest import Here, Refused

METHOD = find_method("cgan_transfer")
SHARED = ("feature_classifier", "real_statistics", "pretrain")
SWEEP = ("--method", "cgan_transfer", "--preset", "smoke")


def public_checkpoint(folder: Path, **network: Any) -> tuple[str, ...]:
    """A BigGAN in the public layout; the flags that use it."""
    common = {"image_size": 8, "classes": 7, "image_channels": 1, "width": 4} | network
    models_made = models.build("biggan", dim_z=16, **common), models.build("biggan_discriminator", **common)
    for name, made in zip(("G_ema.pth", "D.pth"), models_made, strict=True):
        singular = {f"{key[:-2]}sv0": torch.ones(1) for key in made.state_dict() if key.endswith("u0")}
        torch.save({**made.state_dict(), **singular}, folder / name)
    return "--pretrained", "G_ema.pth"


def test_a_sweep_from_a_checkpoint(workplace: Workplace, here: Here) -> None:
    flags = public_checkpoint(workplace.folder)
    knobs = named(METHOD.pretrained)(str(workplace.folder / flags[1]))
    workplace.make("cgan_transfer", SHARED, knobs, sweep="before")
    done = workplace.tune(*SWEEP, *flags, "--trials", "1", "--scheduler", "fifo", "--name", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "G_ema.pth: all" in done.stdout + done.stderr
    assert "BigGAN at 8 px, width 4, 7 classes" in done.stdout + done.stderr
    assert "gain: quality_ft over quality_finetune, each the best of 1 trials by validation" in done.stdout
    assert "registered digits-generator version 1 (champion; quality_ft/fid_classifier" in done.stdout
    ends = workplace.events("first", "stage_end")
    assert {event["status"] for event in ends} == {"finished"}
    assert set(Counter(event["key"] for event in ends).values()) == {1}
    assert [event["stage"] for event in workplace.events("before", "stage_end")] == list(SHARED)
    assert not {event["stage"] for event in ends} & set(SHARED)  # the sweep has found them all
    pictures = {event["name"] for sweep in ("before", "first") for event in workplace.events(sweep, "image")}
    wanted = {
        "pretrain/sample_grid",
        "bn/start",
        "bn/sample_grid",
        "bn/borrowing",
        "bn/interpolation",
        "ft/sample_grid",
        "finetune/start",
    }
    assert wanted <= pictures
    generator = models.load(fetch(workplace.tracking, "digits-generator@champion"))
    assert (generator.old_classes, generator.classes) == (7, 3)
    best = min(workplace.trials("first"), key=lambda trial: trial["metrics"]["quality_ft/fid_classifier"])
    manifest = json.loads((workplace.storage / "artifacts" / best["keys"]["ft"] / "manifest.json").read_text())
    assert manifest["sections"]["task"]["new_classes"] == ["7", "8", "9"]
    evaluated = here(workplace, "evaluate", "digits-generator@champion", "--storage", str(workplace.storage))
    assert evaluated.returncode == 0, evaluated.stderr
    assert "validation (142)" in evaluated.stdout  # the images of the new classes only


@pytest.mark.parametrize(
    ("knob", "says"),
    [
        ("task.new_classes=[7, 12]", ("no class '12'", "it has 10")),
        ("task.old_classes=[1, 2, 7]", ("class 7", "task.old_classes", "task.new_classes")),
        ("task.images_per_class=1000", ("training images", "task.images_per_class is 1000")),
        ("bn.share=0.001", ("bn.share = 0.001", "training.steps = 20")),
        ("pretrain.checkpoint=G.pth", ("pretrain.discriminator_checkpoint",)),
        ("bn.comb_l1_scale=-1", ("'bn.comb_l1_scale'", "-1", "greater than or equal to 0")),
    ],
)
def test_knobs(refused: Refused, knob: str, says: tuple[str, ...]) -> None:
    refused("tune", *SWEEP, "--set", knob, names=says)


@pytest.mark.parametrize(
    ("network", "knobs", "says"),
    [
        ({"image_size": 16}, (), ("has 16 px", "the data has 8", "data.image_size")),
        ({"image_channels": 3}, (), ("has 3 image channels", "the data has 1")),
        ({"width": 8}, (), ("has 8 channels a unit", "pretrain.width is 4")),
        ({"classes": 6}, ("task.old_classes=[0,1,2,3,4,5,6]",), ("has 6 classes", "task.old_classes has 7")),
        ({}, ("pretrain.dim_z=20",), ("dim_z = 16", "pretrain.dim_z is 20")),
    ],
)
def test_a_checkpoint_of_another_gan(
    refused: Refused, tmp_path: Path, network: dict[str, Any], knobs: tuple[str, ...], says: tuple[str, ...]
) -> None:
    flags = public_checkpoint(tmp_path, **network)
    refused("tune", *SWEEP, *flags, *(part for knob in knobs for part in ("--set", knob)), names=says)


def test_a_checkpoint_that_is_none(refused: Refused, tmp_path: Path) -> None:
    flags = public_checkpoint(tmp_path)
    torch.save({"linear.weight": torch.zeros(3, 3)}, tmp_path / "G_ema.pth")
    refused("tune", *SWEEP, *flags, names=("blocks",))
    (tmp_path / "G_ema.pth").unlink()
    refused("tune", *SWEEP, *flags, names=("G_ema.pth",))
    refused("tune", *SWEEP, "--pretrained", "generator.pth", names=("generator.pth", "pretrain.discriminator_checkpoint"))
