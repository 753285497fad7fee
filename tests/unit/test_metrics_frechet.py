"""Streaming moments, the Frechet distance in its two forms, and intra-FID."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gankd.metrics.frechet import classwise_frechet, covariance_factor, frechet_distance, frechet_distance_of_few
from gankd.metrics.inception_score import InceptionScore
from gankd.metrics.moments import Moments
from tests.unit.metric_fixtures import fixture

CGAN_KD = Path(__file__).parents[1] / "fixtures" / "cgan_kd"
FID, STREAM, INTRA = fixture("fid"), fixture("streaming_moments"), fixture("intra_fid")
CLASSES = len(INTRA["per_class_fid"])


def moments(mean: Tensor, covariance: Tensor, count: int = 100) -> Moments:
    return Moments(count, mean.double(), covariance.double() * (count - 1))


def exact(value: object) -> object:
    return pytest.approx(float(value), rel=1e-8)  # type: ignore[arg-type]


def test_moments_after_each_chunk() -> None:
    seen, cuts = Moments.empty(STREAM["X"].shape[1]), STREAM["cuts"].tolist()
    for i, (start, end) in enumerate(pairwise(cuts)):
        seen.update(STREAM["X"][start:end])
        assert seen.count == STREAM["n"][i]
        torch.testing.assert_close(seen.mean, STREAM["mean"][i], rtol=1e-10, atol=0)
        torch.testing.assert_close(seen.scatter, STREAM["M2"][i], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(seen.covariance, STREAM["cov_final"], rtol=1e-9, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_merging_in_any_cut_is_the_moments_of_all(sizes: list[int], seed: int) -> None:
    x = torch.randn(sum(sizes) + 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.01 + 100
    whole, merged = Moments.of(x), Moments.of(x[:2])
    for part in x[2:].split(sizes):
        merged.merge(Moments.of(part))
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-8, atol=1e-12)


def test_reducing_over_workers_is_the_moments_of_all() -> None:
    x = torch.randn(97, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.01 + 1000
    parts, whole = [Moments.of(x[:30]), Moments.of(x[30:31]), Moments.of(x[31:])], Moments.of(x)
    sums = sum(torch.cat([p.mean.new_tensor([p.count]), p.count * p.mean]) for p in parts)
    scatters = []
    for part in parts:

        def total(values: Tensor) -> Tensor:
            """An all-reduce as one worker sees it: counts and sums first; what it gives to the second is kept."""
            if values.dim() == 1:
                return values.copy_(sums)
            scatters.append(values)
            return values

        part.reduce(total)
        assert part.count == 97
        torch.testing.assert_close(part.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(sum(scatters), whole.scatter, rtol=1e-8, atol=1e-12)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        _ = Moments.of(torch.zeros(1, 3)).covariance


def test_the_reference_value() -> None:
    a, b = Moments.of(FID["A"]), Moments.of(FID["B"])
    torch.testing.assert_close(a.mean, FID["mu_A"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a.covariance, FID["sigma_A"], rtol=1e-10, atol=1e-12)
    assert frechet_distance(a, b) == exact(FID["fid_AB"])
    assert frechet_distance(a, b, covariance_factor(a.covariance)) == exact(FID["fid_AB"])
    assert frechet_distance_of_few(FID["A"], FID["B"]) == exact(FID["fid_AB"])
    half = len(FID["A"]) // 2
    assert frechet_distance(Moments.of(FID["A"][:half]), Moments.of(FID["A"][half:])) == exact(FID["first_half_A_fid"])


def test_the_value_of_the_other_reference() -> None:
    with np.load(CGAN_KD / "fid_regression.npz", allow_pickle=False) as data:
        real, fake = (torch.from_numpy(data[name]) for name in ("Xr", "Xg"))
        expected = float(data["fid"])
    assert frechet_distance(Moments.of(real), Moments.of(fake)) == pytest.approx(expected, rel=1e-6)


def test_where_the_value_of_that_reference_is_wrong_for_classes() -> None:
    """It adds the length of the means' difference, unsquared, and counts the rows of a last batch that it drops as zeros."""
    with np.load(CGAN_KD / "fid_is_classification.npz", allow_pickle=False) as data:
        values = {name: torch.from_numpy(data[name]).double() for name in data}

    def reference(real: Tensor, fake: Tensor) -> float:
        a, b = Moments.of(real), Moments.of(fake)
        square = float((a.mean - b.mean).square().sum())
        return frechet_distance(a, b) - square + square**0.5

    assert reference(values["Xr"], values["Xg"]) == pytest.approx(float(values["fid_reference_unsquared_mean_term"]), rel=1e-6)
    real, fake, batch = values["pad_feat_real"], values["pad_feat_fake"], int(values["pad_batch"])
    whole = fake[: len(fake) // batch * batch]
    assert reference(real, whole) == pytest.approx(float(values["pad_fid_ref_first20"]), rel=1e-5)
    padded = torch.cat([whole, torch.zeros_like(fake[len(whole) :])])
    assert reference(real, padded) == pytest.approx(float(values["pad_fid_ref_with_zero_rows"]), rel=1e-5)
    # Its inception score, in two runs, is not wrong.
    score = InceptionScore.empty(len(values["is_logits"]), values["is_logits"].shape[1], splits=2)
    score.update(values["is_logits"], 0)
    assert score.mean_and_std() == pytest.approx((float(values["is_mean"]), float(values["is_std"])), rel=1e-4)


def test_fewer_samples_than_features() -> None:
    a, b = FID["small_A"], FID["small_B"]
    assert frechet_distance_of_few(a, b) == pytest.approx(float(FID["small_fid"]), rel=1e-6)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(float(FID["small_fid"]), rel=1e-6)
    # Every root of an eigenvalue that should be 0 adds its rounding to the form by eigenvalues.
    assert frechet_distance_of_few(a, b) == pytest.approx(float(FID["small_fid_eigh"]), rel=1e-8)


def test_singular_covariances_cost_no_digits() -> None:
    """Fewer samples than features, one of them constant, and a spectrum that falls as that of image features does."""
    rng = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=rng, dtype=torch.float64)).Q
    falling = torch.logspace(0, -5, 64, dtype=torch.float64)
    a, b = ((torch.randn(40, 64, generator=rng, dtype=torch.float64) * falling) @ turn * s for s in (1.0, 1.1))
    a[:, 5], b[:, 5] = 0, 1
    expected = frechet_distance_of_few(a, b)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == exact(expected)
    assert frechet_distance(Moments.of(b), Moments.of(a)) == exact(expected)
    assert frechet_distance(Moments.of(a), Moments.of(b[:20])) == exact(frechet_distance_of_few(a, b[:20]))
    factor = covariance_factor(Moments.of(a).covariance)
    assert factor.shape == (64, 39)
    torch.testing.assert_close(factor @ factor.T, Moments.of(a).covariance, rtol=0, atol=1e-14)
    still = moments(torch.zeros(3), torch.zeros(3, 3))
    assert frechet_distance(still, still) == 0


def test_large_means_do_not_cost_the_digits() -> None:
    a, b = (Moments.empty(FID["offset_A"].shape[1]) for _ in range(2))
    for seen, rows in ((a, FID["offset_A"]), (b, FID["offset_B"])):
        for part in rows.split(77):
            seen.update(part)
    assert frechet_distance(a, b) == pytest.approx(float(FID["offset_fid_float64"]), rel=1e-6)


def test_gaussians_whose_distance_is_known() -> None:
    one = frechet_distance(moments(torch.zeros(1), torch.eye(1) * 4), moments(torch.ones(1) * 3, torch.eye(1) * 25))
    assert one == pytest.approx(18)
    a = moments(FID["diag_mu1"], FID["diag_var1"].diag())
    b = moments(FID["diag_mu2"], FID["diag_var2"].diag())
    assert frechet_distance(a, b) == exact(FID["diag_fid"])


def test_equal_sets_are_at_distance_0() -> None:
    a = Moments.of(FID["A"])
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance_of_few(FID["A"], FID["A"]) == pytest.approx(0, abs=1e-10)


def test_rotating_changes_nothing_and_scaling_squares() -> None:
    a, b = FID["A"], FID["B"]
    d = a.shape[1]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    assert frechet_distance(Moments.of(a @ rotation), Moments.of(b @ rotation)) == exact(FID["fid_AB"])
    assert frechet_distance(Moments.of(3 * a), Moments.of(3 * b)) == exact(9 * FID["fid_AB"])
    with pytest.raises(ValueError, match=f"{d} and {d - 1}"):
        frechet_distance(Moments.of(a), Moments.of(b[:, 1:]))


def test_intra_fid_by_class() -> None:
    real, fake = (INTRA["real"], INTRA["real_labels"]), (INTRA["fake"], INTRA["fake_labels"])
    found = classwise_frechet(*real, *fake)
    assert list(found) == list(range(CLASSES))
    assert list(found.values()) == pytest.approx(INTRA["per_class_fid"].tolist(), rel=1e-8)
    assert sum(found.values()) / CLASSES == exact(INTRA["intra_fid"])
    assert frechet_distance(Moments.of(real[0]), Moments.of(fake[0])) == exact(INTRA["global_fid"])


def test_shuffled_labels_leave_fid_and_raise_intra_fid() -> None:
    found = classwise_frechet(INTRA["real"], INTRA["real_labels"], INTRA["fake"], (INTRA["fake_labels"] + 1) % CLASSES)
    rotated = sorted(found.values())
    assert rotated == pytest.approx(sorted(INTRA["per_class_fid_labels_rotated"].tolist()), rel=1e-8)


def test_a_class_of_one_is_left_out() -> None:
    labels = torch.tensor([0] * 10 + [1])
    assert list(classwise_frechet(torch.randn(11, 3), labels, torch.randn(11, 3), labels)) == [0]
