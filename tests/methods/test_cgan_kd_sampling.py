"""The rejection sampler and the filter loop, with stand-ins for generator, ratio and teacher."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gankd.errors import StageFailed
from methods.cgan_kd import sampling
from methods.cgan_kd.sampling import RejectionSampler, filter_class
from methods.cgan_kd.selection import accept

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coin(n: int, generator: torch.Generator) -> torch.Tensor:
    """'Images' 0 or 1 with equal probability."""
    return torch.randint(0, 2, (n, 1, 1, 1), generator=generator).float()


def coin_ratio(images: torch.Tensor) -> torch.Tensor:
    """p_real = (0.8, 0.2) over p_fake = (0.5, 0.5)."""
    return torch.where(images.flatten() == 0, 1.6, 0.4)


def sampler(ratio=coin_ratio, draw=coin, **kwargs) -> RejectionSampler:
    settings = {"label": 3, "burn_in": 50, "batch": 64, "max_draws": 100_000, "rng": rng()} | kwargs
    return RejectionSampler(draw, ratio, **settings)


def test_accepted_images_follow_the_real_distribution() -> None:
    used = sampler(label=0, burn_in=100, batch=500, max_draws=10**6)
    images, statistics = used.sample(20_000), used.statistics
    assert images.shape == (20_000, 1, 1, 1)
    assert images.mean().item() == pytest.approx(0.2, abs=0.01)
    assert statistics.bound == pytest.approx(1.6)
    assert statistics.acceptance_rate == pytest.approx(1.0 / 1.6, abs=0.01)
    assert statistics.draws == statistics.tested + 100
    assert 20_000 <= statistics.accepted < 20_500


def test_same_generator_seed_same_images() -> None:
    assert torch.equal(sampler(rng=rng(5)).sample(100), sampler(rng=rng(5)).sample(100))
    assert not torch.equal(sampler(rng=rng(5)).sample(100), sampler(rng=rng(6)).sample(100))


def counted(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, 1, 1, 1, generator=generator)


def test_bound_is_estimated_once_and_stays() -> None:
    fixed = sampler(draw=counted, ratio=lambda images: images.flatten(), burn_in=5)
    fixed.sample(10)
    bound, draws = fixed.bound, fixed.draws
    assert draws % 64 == 5
    fixed.sample(1000)
    assert fixed.bound == bound
    assert (fixed.draws - draws) % 64 == 0


def test_reference_burns_in_at_every_call_and_grows_the_bound() -> None:
    growing = sampler(draw=counted, ratio=lambda images: images.flatten(), burn_in=5, reference_compat=True)
    growing.sample(1000)
    assert growing.bound > 0.99
    growing.sample(10)
    assert growing.draws % 64 == 10


def test_quantile_estimator_accepts_more() -> None:
    def heavy(images: torch.Tensor) -> torch.Tensor:
        return 1 / (1 - images.flatten()).clamp(min=1e-6)

    kwargs = {"draw": counted, "ratio": heavy, "burn_in": 2000}
    largest, quantile = sampler(**kwargs), sampler(**kwargs, estimator="quantile", quantile=0.9)
    largest.sample(50)
    quantile.sample(50)
    assert quantile.bound == pytest.approx(10, rel=0.15)
    assert quantile.statistics.acceptance_rate > 5 * largest.statistics.acceptance_rate


def test_reference_loop_over_recorded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    values = fixture("rejection_sampling")
    bounds, batch = values["M_after_each"].tolist(), values["batch_ratios"].shape[1]
    burn_in = values["burnin_ratios"]
    ratio_of = dict(zip(values["image_ids"].ravel().tolist(), values["batch_ratios"].ravel().tolist(), strict=True))
    ratio_of |= dict(zip(range(-len(burn_in), 0), burn_in.tolist(), strict=True))
    # The burn-in of ten comes in two pieces, as the batch holds eight.
    pieces = [torch.arange(-len(burn_in), 0)[:batch], torch.arange(-len(burn_in), 0)[batch:]]
    pieces += [torch.from_numpy(ids) for ids in values["image_ids"]]
    supply, numbers = iter(pieces), iter(torch.from_numpy(values["uniforms"]))
    masks: list[torch.Tensor] = []
    seen_bounds: list[float] = []

    def recorded_accept(ratios: torch.Tensor, u: torch.Tensor, bound: float) -> torch.Tensor:
        seen_bounds.append(bound)
        masks.append(accept(ratios, u, bound))
        return masks[-1]

    monkeypatch.setattr(sampling, "uniforms", lambda n, generator: next(numbers)[:n])
    monkeypatch.setattr(sampling, "accept", recorded_accept)
    recorded = sampler(
        draw=lambda n, generator: next(supply),
        ratio=lambda ids: torch.tensor([ratio_of[i] for i in ids.tolist()], dtype=torch.float64),
        burn_in=len(burn_in),
        batch=batch,
        reference_compat=True,
    )
    accepted = recorded.sample(int(values["n_requested"]))
    assert accepted.tolist() == values["accepted_ids_in_order"].tolist()
    assert seen_bounds == pytest.approx(bounds[1 : len(seen_bounds) + 1])
    assert torch.equal(torch.stack(masks), torch.from_numpy(values["accept_mask"][: len(masks)]))


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (lambda images: torch.zeros(len(images)), r"ratio of class 3 is 0 .*50 draws, 0 accepted"),
        (
            lambda images: torch.full((len(images),), torch.nan),
            r"class 3 is not a finite .*50 draws, 0 accepted",
        ),
        (lambda images: torch.full((len(images),), torch.inf), r"class 3 is not a finite"),
    ],
)
def test_useless_ratios_end_the_stage(ratio, message: str) -> None:
    with pytest.raises(StageFailed, match=message):
        sampler(ratio=ratio).sample(10)


@pytest.mark.parametrize("reference_compat", [False, True])
def test_draws_are_bounded(reference_compat: bool) -> None:
    calls = iter(range(10**6))

    def collapses(images: torch.Tensor) -> torch.Tensor:
        """Good at the burn-in only."""
        return torch.full((len(images),), 1.0 if next(calls) == 0 else 0.0)

    bounded = sampler(ratio=collapses, max_draws=1000, reference_compat=reference_compat)
    with pytest.raises(StageFailed, match=r"class 3 reached its limit of 1000 draws \(946 draws, 0 accepted"):
        bounded.sample(10)


CLASSES = 5


class RecordedSource:
    """Images whose single pixel is the teacher's error for class 3; remembers the sizes asked for."""

    def __init__(self, *batches: torch.Tensor) -> None:
        self.batches, self.sizes = iter(batches), []

    def __call__(self, n: int) -> torch.Tensor:
        self.sizes.append(n)
        batch = next(self.batches)
        assert len(batch) == n
        return batch.view(n, 1, 1, 1)


def teacher(images: torch.Tensor) -> torch.Tensor:
    """Logits for which the cross-entropy at class 3 is the pixel; the arg max is 3 below log 2, else 1."""
    share = torch.exp(-images.flatten().double())
    probabilities = torch.full((len(images), CLASSES), 1e-300, dtype=torch.float64)
    probabilities[:, 1], probabilities[:, 3] = 1 - share, share
    return probabilities.clamp(min=1e-300).log()


def test_reference_loop_asks_for_half_until_enough_are_kept() -> None:
    values = fixture("final_sampler_loop")
    n = int(values["nfake"])
    burn_in, *sizes = values["requested_sizes_in_order"].tolist()
    batches = [torch.linspace(0.1, 1, burn_in)]
    for size, fraction in zip(sizes, values["keep_fractions"].tolist()[: len(sizes)], strict=True):
        errors = torch.full((size,), 4.0)
        errors[: round(fraction * size)] = 0.05
        batches.append(errors)
    source = RecordedSource(*batches)
    images, labels, statistics = filter_class(
        source, teacher, n, 0.9, label=3, burn_in=burn_in, max_rounds=10, reference_compat=True
    )
    assert source.sizes == values["requested_sizes_in_order"].tolist()
    assert len(source.sizes) - 1 == int(values["filter_calls"])
    assert len(images) == int(values["n_out"])
    assert labels.tolist() == values["labels_out"].tolist()
    assert (statistics.seen, statistics.kept) == (40, 25)


def uniform_errors(seed: int = 0):
    generator = rng(seed)
    return lambda n: torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float64)


def test_filter_keeps_the_share_below_the_threshold() -> None:
    images, labels, statistics = filter_class(uniform_errors(), teacher, 2000, 0.7, label=3, burn_in=1000, max_rounds=20)
    assert statistics.threshold == pytest.approx(0.7, abs=0.05)
    assert statistics.kept / statistics.seen == pytest.approx(0.7, abs=0.05)
    assert images.max().item() <= statistics.threshold + 1e-9
    assert labels.dtype == torch.int64
    assert (labels == 3).all()


def test_replacement_gives_the_teachers_label() -> None:
    images, labels, _ = filter_class(uniform_errors(), teacher, 200, 1.0, label=3, burn_in=100, max_rounds=20, replace=True)
    expected = torch.where(images.flatten() < np.log(2), 3, 1)
    assert torch.equal(labels, expected)
    assert set(labels.tolist()) == {1, 3}


def test_equal_errors_pass_by_default_and_end_the_stage_in_the_reference() -> None:
    def same(n: int) -> torch.Tensor:
        return torch.full((n, 1, 1, 1), 0.5, dtype=torch.float64)

    assert len(filter_class(same, teacher, 10, 0.9, label=3, burn_in=10, max_rounds=5)[0]) == 10
    with pytest.raises(StageFailed, match=r"filter of class 3 kept 0 of 25 fakes in 5 rounds"):
        filter_class(same, teacher, 10, 0.9, label=3, burn_in=10, max_rounds=5, reference_compat=True)


def test_a_teacher_that_gives_nan_ends_the_stage() -> None:
    with pytest.raises(StageFailed, match="class 3"):
        filter_class(uniform_errors(), lambda x: teacher(x) * torch.nan, 10, 0.9, label=3, burn_in=10, max_rounds=5)
