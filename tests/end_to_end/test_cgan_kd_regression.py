"""A sweep of cGAN-KD for numbers by the real `tune.py`, and what is refused before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Workplace
from tests.end_to_end.conftest import Refused

SWEEP = ("--method", "cgan_kd_regression", "--preset", "smoke")
SHARED = ("teacher", "baseline", "feature_classifier", "label_embedding", "ccgan", "extractor", "control")


@pytest.mark.long
def test_a_sweep(workplace: Workplace) -> None:
    workplace.make("cgan_kd_regression", SHARED, {})
    (workplace.folder / "space.py").write_text("from ray import tune\nSPACE = {'samples.filter_quantile': tune.choice([0.4])}")
    done = workplace.tune(*SWEEP, "--trials", "2", "--scheduler", "fifo", "--name", "first", "--space", "space.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gain: student over control" in done.stdout
    assert "registered digits_angle-student version 1 (champion; student/val_mae" in done.stdout
    trials = workplace.trials("first")
    errors = {trial["knobs"]["samples.filter_quantile"]: trial["metrics"]["student/val_mae"] for trial in trials}
    kept = {trial["knobs"]["samples.filter_quantile"]: trial["metrics"]["samples/fakes"] for trial in trials}
    assert kept == {0.7: 70, 0.4: 40}
    (chosen,) = (row for row in done.stdout.splitlines() if "│ *" in row)
    assert f"{min(errors.values()):.2f}" in chosen  # the smallest error
    controls = {trial["metrics"]["control/val_mae"] for trial in trials}
    assert len(controls) == 1  # trained once


@pytest.mark.parametrize(
    ("method", "knob", "says"),
    [
        ("cgan_kd_regression", "data.name=digits", ("needs numbers as labels", "'digits'", "10 classes", "float32")),
        ("cgan_kd", "data.name=digits_angle", ("needs class labels", "'digits_angle'", "labels in degree")),
        ("cgan_kd_regression", "data.image_size=24", ("16, 32, 64 px", "24 px")),
        ("cgan_kd_regression", "density_ratio.widths=[30]", ("'density_ratio.widths'", "30", "multiple of 8")),
        ("cgan_kd_regression", "density_ratio.zeta=2", ("'density_ratio.zeta'", "2", "less than or equal to 1")),
        ("cgan_kd_regression", "samples.labels=1", ("'samples.labels'", "1", "greater than or equal to 2")),
        ("cgan_kd_regression", "samples.filter_quantile=0", ("'samples.filter_quantile'", "0", "greater than 0")),
        ("cgan_kd_regression", "teacher.head=[0]", ("'teacher.head'", "0", "greater than or equal to 1")),
        ("cgan_kd_regression", "extractor.batch=201", ("extractor.batch = 201", "200 training images")),
    ],
)
def test_knobs(refused: Refused, method: str, knob: str, says: tuple[str, ...]) -> None:
    refused("tune", "--method", method, "--preset", "smoke", "--set", knob, names=says)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.full(120, 3.5), ("all training labels are 3.5", "two classes (or values) at least are needed")),
        (np.where(np.arange(120) == 7, np.nan, 1.0), ("1 NaN or infinite labels", "index 7")),
        (np.arange(120) % 60 + 1, ("needs numbers as labels", "60 classes", "float32")),
    ],
)
def test_labels(refused: Refused, tmp_path: Path, labels: np.ndarray, says: tuple[str, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "faces.npz", images_train=images, labels_train=labels)
    data = ("data.name=npz", "data.path=faces.npz", "data.train_images=null")
    refused("tune", *SWEEP, *(part for knob in data for part in ("--set", knob)), names=says)
