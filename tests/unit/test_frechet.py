"""The Frechet distance against the reference's value and worked examples."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gankd.metrics.frechet import frechet_distance, moments

FIXTURE = Path(__file__).parents[1] / "fixtures" / "cgan_kd" / "fid_regression.npz"


def test_it_equals_the_reference() -> None:
    with np.load(FIXTURE, allow_pickle=False) as data:
        real, fake = moments(torch.tensor(data["Xr"])), moments(torch.tensor(data["Xg"]))
        assert frechet_distance(*real, *fake) == pytest.approx(float(data["fid"]), rel=1e-6)


def test_the_distance_of_the_means_is_squared() -> None:
    cov = torch.eye(2, dtype=torch.float64)
    assert frechet_distance(torch.zeros(2), cov, torch.tensor([3.0, 4.0]), cov) == pytest.approx(25)


def test_fewer_images_than_features_still_give_a_number() -> None:
    features = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(*moments(features), *moments(features)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(*moments(features), *moments(features + 1)) == pytest.approx(20, rel=1e-6)
