"""Module M1: the conditional Softplus loss and rejection sampling, with stand-ins for generator and ratio."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gankd.errors import StageFailed
from methods.cgan_kd import subsampling
from methods.cgan_kd.config import SamplesConfig
from methods.cgan_kd.subsampling import RejectionSampler, accept, ratio_bound, softplus_ratio_loss

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss_and_gradients(real: object, fake: object, penalty: float) -> tuple[float, torch.Tensor, torch.Tensor]:
    a = torch.tensor(real, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(fake, dtype=torch.float64, requires_grad=True)
    loss = softplus_ratio_loss(a, b, penalty)
    loss.backward()
    return loss.item(), a.grad, b.grad


def test_worked_example() -> None:
    loss, grad_real, grad_fake = loss_and_gradients([1.2, 0.5], [0.8, 2.0], 0.01)
    assert loss == pytest.approx(-1.1861195, abs=1e-6)
    assert grad_real.tolist() == pytest.approx([-0.0889472, -0.1175019], abs=1e-6)
    assert grad_fake.tolist() == pytest.approx([0.0895639, 0.1089936], abs=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 1.0])
def test_ratio_one_everywhere_gives_minus_softplus_of_one(penalty: float) -> None:
    assert loss_and_gradients([1.0] * 3, [1.0] * 3, penalty)[0] == pytest.approx(-1.3132617, abs=1e-6)


def test_ratio_zero_everywhere() -> None:
    assert loss_and_gradients([0.0] * 3, [0.0] * 3, 0.01)[0] == pytest.approx(-math.log(2) - 0.5 + 0.01, abs=1e-9)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [((1.6, 0.4), -1.3484580), ((1.0, 1.0), -1.3132617), ((1.7, 0.4), -1.3481239), ((1.6, 0.5), -1.3478659)],
)
def test_two_point_population_is_minimal_at_the_true_ratio(ratios: tuple[float, float], expected: float) -> None:
    """p_real = (0.8, 0.2), p_fake = (0.5, 0.5), as samples of ten points."""
    first, second = ratios
    loss, _, _ = loss_and_gradients([first] * 8 + [second] * 2, [first] * 5 + [second] * 5, 0.0)
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["dre_loss", "dre_loss_class"])
def test_reference_values(name: str) -> None:
    values = fixture(name)
    cases = sorted({key.split("_")[0] for key in values})
    assert len(cases) >= 2
    for case in cases:
        loss, grad_real, grad_fake = loss_and_gradients(
            values[f"{case}_dr_real"], values[f"{case}_dr_fake"], float(values[f"{case}_lambda"])
        )
        assert loss == pytest.approx(float(values[f"{case}_loss"]), rel=1e-4)
        np.testing.assert_allclose(grad_real, values[f"{case}_grad_real"], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(grad_fake, values[f"{case}_grad_fake"], rtol=1e-4, atol=1e-7)


@given(st.lists(st.floats(0, 30), min_size=2, max_size=20), st.floats(0, 1), st.randoms(use_true_random=False))
def test_loss_does_not_depend_on_the_order(ratios: list[float], penalty: float, random) -> None:
    shuffled = random.sample(ratios, len(ratios))
    before = loss_and_gradients(ratios, ratios, penalty)[0]
    assert loss_and_gradients(shuffled, ratios, penalty)[0] == pytest.approx(before, rel=1e-12, abs=1e-12)
    assert loss_and_gradients(ratios, shuffled, penalty)[0] == pytest.approx(before, rel=1e-12, abs=1e-12)


def test_acceptance_worked_example() -> None:
    ratios, u = doubles(1.0, 3.0, 0.0), doubles(0.30, 0.90, 0.10)
    bound = max(2.0, ratio_bound(ratios))
    assert bound == 3.0
    assert accept(ratios, u, bound).tolist() == [True, True, False]
    assert accept(doubles(0.0, 0.0), doubles(0.0, 1e-12), bound).tolist() == [True, False]


def test_expected_acceptance_is_the_mean_ratio_over_the_bound() -> None:
    ratios = doubles(0.2, 0.6, 1.0, 1.4, 1.8)
    u = torch.rand(40_000, 5, generator=seeded(), dtype=torch.float64)
    rate = accept(ratios.expand(40_000, 5), u, 1.8).double().mean().item()
    assert rate == pytest.approx(0.55556, abs=0.005)


def test_ratios_above_the_bound_count_as_the_bound() -> None:
    assert ratio_bound(torch.linspace(0, 1, 101), "quantile", 0.9) == pytest.approx(0.9)
    assert accept(doubles(5.0), doubles(1.0), bound=0.9).tolist() == [True]


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=30), st.integers(-20, 20), st.integers(0, 1000))
def test_the_scale_of_the_ratio_does_not_matter(values: list[float], power: int, seed: int) -> None:
    ratios, scale = doubles(*values), 2.0**power
    u = torch.rand(len(values), generator=seeded(seed), dtype=torch.float64)
    scaled = accept(ratios * scale, u, ratio_bound(ratios * scale))
    assert torch.equal(scaled, accept(ratios, u, ratio_bound(ratios)))


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_a_constant_ratio_accepts_everything(value: float, seed: int) -> None:
    u = torch.rand(50, generator=seeded(seed), dtype=torch.float64)
    assert accept(torch.full((50,), value, dtype=torch.float64), u, value).all()


def coin(n: int, generator: torch.Generator) -> torch.Tensor:
    """'Images' 0 or 1 with equal probability."""
    return torch.randint(0, 2, (n, 1, 1, 1), generator=generator).float()


def coin_ratio(images: torch.Tensor) -> torch.Tensor:
    """p_real = (0.8, 0.2) over p_fake = (0.5, 0.5)."""
    return torch.where(images.flatten() == 0, 1.6, 0.4)


def sampler(ratio=coin_ratio, draw=coin, label: int = 3, rng: torch.Generator | None = None, **knobs) -> RejectionSampler:
    cfg = SamplesConfig(**{"burn_in": 50, "batch": 64} | knobs)
    return RejectionSampler(cfg, f"class {label}", draw, ratio, rng or seeded())


def test_accepted_images_follow_the_real_distribution() -> None:
    used = sampler(label=0, burn_in=100, batch=500)
    images = used.sample(20_000)
    assert images.shape == (20_000, 1, 1, 1)
    assert images.mean().item() == pytest.approx(0.2, abs=0.01)
    assert used.bound == pytest.approx(1.6)
    assert used.acceptance_rate == pytest.approx(1.0 / 1.6, abs=0.01)
    assert used.draws == used.tested + 100
    assert 20_000 <= used.accepted < 20_500


def test_same_generator_seed_same_images() -> None:
    assert torch.equal(sampler(rng=seeded(5)).sample(100), sampler(rng=seeded(5)).sample(100))
    assert not torch.equal(sampler(rng=seeded(5)).sample(100), sampler(rng=seeded(6)).sample(100))


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
    largest, quantile = sampler(**kwargs), sampler(**kwargs, estimator="quantile", m_quantile=0.9)
    largest.sample(50)
    quantile.sample(50)
    assert quantile.bound == pytest.approx(10, rel=0.15)
    assert quantile.acceptance_rate > 5 * largest.acceptance_rate


def test_reference_loop_over_recorded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    values = fixture("rejection_sampling")
    bounds, batch = values["M_after_each"].tolist(), values["batch_ratios"].shape[1]
    burn_in = values["burnin_ratios"]
    ratio_of = dict(zip(values["image_ids"].ravel().tolist(), values["batch_ratios"].ravel().tolist(), strict=True))
    ratio_of |= dict(zip(range(-len(burn_in), 0), burn_in.tolist(), strict=True))
    # The burn-in comes in pieces of a batch at most.
    pieces = [*torch.arange(-len(burn_in), 0).split(batch)]
    pieces += [torch.from_numpy(ids) for ids in values["image_ids"]]
    supply, numbers = iter(pieces), iter(torch.from_numpy(values["uniforms"]))
    masks: list[torch.Tensor] = []
    seen_bounds: list[float] = []

    def recorded_accept(ratios: torch.Tensor, u: torch.Tensor, bound: float) -> torch.Tensor:
        seen_bounds.append(bound)
        masks.append(accept(ratios, u, bound))
        return masks[-1]

    monkeypatch.setattr(subsampling, "uniforms", lambda n, generator: next(numbers)[:n])
    monkeypatch.setattr(subsampling, "accept", recorded_accept)
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

    bounded = sampler(ratio=collapses, max_draws=2, per_class=473, filter_burn_in=2, reference_compat=reference_compat)
    with pytest.raises(StageFailed, match=r"class 3 reached its limit of 1000 draws \(946 draws, 0 accepted"):
        bounded.sample(10)
