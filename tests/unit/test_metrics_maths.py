"""Inception score, KID, KMMD, precision and recall against the references' values and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gankd.metrics.frechet import frechet_distance, frechet_distance_of_few
from gankd.metrics.inception_score import InceptionScore
from gankd.metrics.kernel import gaussian_mmd, kernel_distance, mean_squared_distance
from gankd.metrics.manifold import manifold_metrics, squared_radii
from gankd.metrics.moments import Moments
from gankd.metrics.pairs import BLOCK, Pairs
from tests.unit.metric_fixtures import cases, fixture

SCORE, KID, KMMD, MANIFOLD = fixture("inception_score"), fixture("kid"), fixture("kmmd"), fixture("precision_recall")


def three(real: Tensor, fake: Tensor, tile: int = 2048) -> tuple[Pairs, Pairs, Pairs]:
    return Pairs(real, tile=tile), Pairs(fake, tile=tile), Pairs(real, fake, tile=tile)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(logits: Tensor, splits: int = 10, batch: int = 1000) -> tuple[float, float]:
    sums = InceptionScore.empty(len(logits), logits.shape[1], splits)
    for start in range(0, len(logits), batch):
        sums.update(logits[start : start + batch], start)
    return sums.mean_and_std()


@pytest.mark.parametrize("splits", cases(SCORE, r"is_mean_splits(\d+)"))
@pytest.mark.parametrize("batch", [7, 1000])
def test_the_inception_score_of_the_reference(splits: int, batch: int) -> None:
    expected = [float(SCORE[f"is_{what}_splits{splits}"]) for what in ("mean", "std")]
    assert score(SCORE["logits"], splits, batch) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_inception_scores_known_by_hand() -> None:
    assert score(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log(), 1)[0] == pytest.approx(1.444935, rel=1e-6)
    perfect = (torch.eye(SCORE["logits"].shape[1]).repeat(3, 1)).log()  # probabilities that are exactly 0 as well
    assert score(perfect, 1)[0] == pytest.approx(float(SCORE["is_perfect"]), rel=1e-8)
    assert score(torch.ones(20, 7), 2) == pytest.approx((1, 0))


def test_scores_of_two_workers_add_up() -> None:
    logits = SCORE["logits"]
    parts, cut = [InceptionScore.empty(*logits.shape) for _ in range(2)], int(0.6 * len(logits))
    parts[0].update(logits[:cut], 0)
    parts[1].update(logits[cut:], cut)
    parts[0].probabilities += parts[1].probabilities
    parts[0].negentropies += parts[1].negentropies
    assert parts[0].mean_and_std() == pytest.approx(score(logits), rel=1e-12)


@pytest.mark.parametrize("tile", [16, 2048])
def test_pairs_in_tiles_are_all_pairs_once(tile: int) -> None:
    x, y = randn(50, 3), randn(37, 3, seed=1)
    for pairs, other in ((Pairs(x, tile=tile), x), (Pairs(x, y, tile=tile), y)):
        seen, distances = torch.zeros(pairs.shape), torch.zeros(pairs.shape, dtype=torch.float64)
        for part in pairs.tiles():
            seen[part.rows, part.columns] += 1
            distances[part.rows, part.columns] = pairs.distances(part)
        assert bool((seen == 1).all())
        exact = torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist").square()
        torch.testing.assert_close(distances, exact, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="3 and 2"):
        Pairs(x, y[:, :2])


def test_equal_features_are_at_distance_0() -> None:
    x = randn(20, 5) + 1000
    pairs = Pairs(x, x.clone())
    (tile,) = pairs.tiles()
    assert bool((pairs.distances(tile).diagonal() == 0).all())


@pytest.mark.parametrize("tile", [16, 2048])
def test_kid_of_the_reference(tile: int) -> None:
    a, b = KID["a"], KID["b"]
    assert kernel_distance(*three(a, b, tile))[0] == pytest.approx(float(KID["kid_unbiased"]), rel=1e-8)
    assert kernel_distance(*three(a, a.clone(), tile))[0] == pytest.approx(float(KID["kid_unbiased_same"]), rel=1e-8)


def test_kid_over_subsets_is_the_mean_over_those_subsets() -> None:
    a, b = randn(40, 4), randn(60, 4, seed=1) + 0.5
    mean, std = kernel_distance(*three(a, b), subsets=5, size=20)
    rng, found = torch.Generator().manual_seed(2020), []
    mine = [torch.randperm(40, generator=rng)[:20] for _ in range(5)]
    theirs = [torch.randperm(60, generator=rng)[:20] for _ in range(5)]
    for i, j in zip(mine, theirs):
        found.append(kernel_distance(*three(a[i], b[j]))[0])
    assert mean == pytest.approx(sum(found) / 5, rel=1e-10)
    assert std == pytest.approx(float(torch.tensor(found, dtype=torch.float64).std(correction=0)), rel=1e-8)


def test_kid_is_unbiased_where_fid_is_not() -> None:
    draws = [(randn(32, 16, seed=2 * i), randn(32, 16, seed=2 * i + 1)) for i in range(30)]
    kid = torch.tensor([kernel_distance(*three(a, b))[0] for a, b in draws])
    fid = torch.tensor([frechet_distance_of_few(a, b) for a, b in draws])
    assert abs(float(kid.mean())) < 3 * float(kid.std()) / 30**0.5
    assert float(fid.mean()) == pytest.approx(5.2, rel=0.1)  # the true distance is 0


@pytest.mark.parametrize("tile", [16, 2048])
@pytest.mark.parametrize("sigma", cases(KMMD, r"kmmd_sigma(.+)"))
def test_kmmd_of_the_reference(sigma: float, tile: int) -> None:
    real, fake = KMMD["real"], KMMD["fake"]
    scale = mean_squared_distance(real)
    assert scale == pytest.approx(float(KMMD["Mxx_mean_scale"]), rel=1e-6)  # the reference's is fp32
    found, unbiased = gaussian_mmd(*three(real, fake, tile), sigma**2 * scale)
    assert found == pytest.approx(float(KMMD[f"kmmd_sigma{sigma}"]), rel=1e-8)
    if f"kmmd_squared_sigma{sigma}" in KMMD:
        assert found**2 == pytest.approx(float(KMMD[f"kmmd_squared_sigma{sigma}"]), rel=1e-8)
    if sigma == 1:
        assert unbiased == pytest.approx(float(KMMD["mmd2_unbiased_same_kernel"]), rel=1e-8)


def test_kmmd_takes_its_bandwidth_from_the_real_side() -> None:
    real, fake = KMMD["real"], KMMD["fake"]
    swapped, _ = gaussian_mmd(*three(fake, real), mean_squared_distance(fake))
    assert swapped == pytest.approx(float(KMMD["kmmd_swapped_sigma1.0"]), rel=1e-8)


def test_kmmd_by_hand() -> None:
    real, fake = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    assert mean_squared_distance(real) == pytest.approx(2)
    assert gaussian_mmd(*three(real, fake), 2.0)[0] == pytest.approx(0.355441, rel=1e-5)
    assert gaussian_mmd(*three(real, real.clone()), 2.0)[0] == 0
    assert gaussian_mmd(*three(torch.ones(4, 2), torch.ones(4, 2)), 0.0)[0] == 0
    assert gaussian_mmd(*three(torch.ones(4, 2), torch.zeros(4, 2)), 0.0)[0] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("tile", [16, 2048])
@pytest.mark.parametrize("k", cases(MANIFOLD, r"precision_k(\d+)"))
def test_precision_and_recall_of_the_reference(k: int, tile: int) -> None:
    real, fake = MANIFOLD["real"], MANIFOLD["fake"]
    pairs = three(real, fake, tile)
    torch.testing.assert_close(squared_radii(pairs[0], k).sqrt(), MANIFOLD[f"radius_real_k{k}"], rtol=1e-8, atol=0)
    torch.testing.assert_close(squared_radii(pairs[1], k).sqrt(), MANIFOLD[f"radius_fake_k{k}"], rtol=1e-8, atol=0)
    expected = {name: float(MANIFOLD[f"{name}_k{k}"]) for name in ("precision", "recall", "density", "coverage")}
    assert manifold_metrics(*pairs, k) == pytest.approx(expected, rel=1e-8)


def test_precision_and_recall_by_hand() -> None:
    real, fake = torch.tensor([[0.0], [1], [2], [3], [10]]), torch.tensor([[0.5], [2.5], [6], [20]])
    pairs = three(real, fake)
    assert squared_radii(pairs[0], 1).sqrt().tolist() == pytest.approx([1, 1, 1, 1, 7])
    assert squared_radii(pairs[1], 1).sqrt().tolist() == pytest.approx([2, 2, 3.5, 14])
    found = manifold_metrics(*pairs, 1)
    assert (found["precision"], found["recall"]) == (0.75, 1.0)


def test_a_copy_of_the_real_set_is_precise_and_complete() -> None:
    real = (randn(60, 8) * 3).round() + 50  # many ties
    assert manifold_metrics(*three(real, real.clone()), 3)["precision"] == 1
    assert manifold_metrics(*three(real, real.clone()), 3)["recall"] == 1


def test_mode_collapse_is_precise_and_recalls_little() -> None:
    modes = torch.arange(300) % 4 * 20.0
    real = randn(300, 5) + modes[:, None]
    collapsed = randn(300, 5, seed=1) * 0.3
    healthy = randn(300, 5, seed=2) + modes[:, None]
    narrow, wide = (manifold_metrics(*three(real, fake), 3) for fake in (collapsed, healthy))
    assert narrow["precision"] > 0.95
    assert narrow["recall"] < 0.3
    assert narrow["coverage"] < 0.3
    assert wide["recall"] > 0.8


def test_noise_is_imprecise() -> None:
    found = manifold_metrics(*three(randn(200, 5), randn(200, 5, seed=1) * 8), 3)
    assert found["precision"] < 0.1


class Given(nn.Module):
    """Stands where torchmetrics expects a feature extractor: its images are features already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchmetrics_finds_the_same_fid_and_kid() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = randn(60, 6), randn(60, 6, seed=1) * 1.3 + 0.2
    theirs = FrechetInceptionDistance(Given(6)), KernelInceptionDistance(Given(6), subsets=1, subset_size=60)
    for metric in theirs:
        metric.update(real, real=True)
        metric.update(fake, real=False)
    fid, (kid, _) = theirs[0].compute(), theirs[1].compute()
    assert frechet_distance(Moments.of(real), Moments.of(fake)) == pytest.approx(float(fid), rel=1e-8)
    assert kernel_distance(*three(real, fake))[0] == pytest.approx(float(kid), rel=1e-8)


def test_products_of_a_set_with_itself_are_those_of_all_pairs() -> None:
    x = torch.randn(2 * BLOCK + 88, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (tile,) = Pairs(x).tiles()
    torch.testing.assert_close(tile.products, x @ x.T, rtol=1e-12, atol=1e-12)
