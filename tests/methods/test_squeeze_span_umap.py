"""Figure 2: its numbers, and the command, with a stand-in for UMAP."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from methods.squeeze_span import umap


class Flat:
    """Keeps the first two numbers."""

    def __init__(self, random_state: int) -> None:
        self.seed = random_state

    def fit_transform(self, features: np.ndarray) -> np.ndarray:
        return features[:, :2]


def test_purity_and_linear_accuracy_of_clusters_and_of_noise() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(300) % 3
    clusters = np.eye(3)[classes] * 10 + rng.normal(size=(300, 3))
    assert umap.purity(clusters, classes) > 95
    assert umap.told(clusters, classes) > 95
    noise = rng.normal(size=(300, 8))
    assert 20 < umap.purity(noise, classes) < 47
    assert 20 < umap.told(noise, classes) < 50


def test_the_command_writes_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Flat))
    out = tmp_path / "figure2.png"
    arguments = ["--preset", "smoke", "--images", "60", "--storage", str(tmp_path / "runs"), "--out", str(out)]
    done = CliRunner().invoke(umap.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert Image.open(out).width > 1000


def test_without_umap_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    done = CliRunner().invoke(umap.main, ["--preset", "smoke", "--out", str(tmp_path / "x.png"), "--storage", str(tmp_path)])
    assert done.exit_code == 2
    assert "pip install 'gankd[umap]'" in done.output
