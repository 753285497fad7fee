"""Acceptance, filter, replacement, choice of nfake and uint8 conversion against worked facts and reference values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gankd.data.augment import to_uint8
from methods.cgan_kd.selection import (
    accept,
    below_threshold,
    class_quotas,
    error_threshold,
    kept_count,
    label_errors,
    ratio_bound,
    replaced_labels,
    select_per_class,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"
TENS = torch.arange(10, dtype=torch.float64)


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_acceptance_worked_example() -> None:
    ratios, u = doubles(1.0, 3.0, 0.0), doubles(0.30, 0.90, 0.10)
    bound = max(2.0, ratio_bound(ratios))
    assert bound == 3.0
    assert accept(ratios, u, bound).tolist() == [True, True, False]
    assert accept(doubles(0.0, 0.0), doubles(0.0, 1e-12), bound).tolist() == [True, False]


def test_expected_acceptance_is_the_mean_ratio_over_the_bound() -> None:
    ratios = doubles(0.2, 0.6, 1.0, 1.4, 1.8)
    u = torch.rand(40_000, 5, generator=rng(), dtype=torch.float64)
    rate = accept(ratios.expand(40_000, 5), u, 1.8).double().mean().item()
    assert rate == pytest.approx(0.55556, abs=0.005)


def test_ratios_above_the_bound_count_as_the_bound() -> None:
    assert ratio_bound(torch.linspace(0, 1, 101), "quantile", 0.9) == pytest.approx(0.9)
    assert accept(doubles(5.0), doubles(1.0), bound=0.9).tolist() == [True]


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=30), st.integers(-20, 20), st.integers(0, 1000))
def test_the_scale_of_the_ratio_does_not_matter(values: list[float], power: int, seed: int) -> None:
    ratios, scale = doubles(*values), 2.0**power
    u = torch.rand(len(values), generator=rng(seed), dtype=torch.float64)
    scaled = accept(ratios * scale, u, ratio_bound(ratios * scale))
    assert torch.equal(scaled, accept(ratios, u, ratio_bound(ratios)))


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_a_constant_ratio_accepts_everything(value: float, seed: int) -> None:
    u = torch.rand(50, generator=rng(seed), dtype=torch.float64)
    assert accept(torch.full((50,), value, dtype=torch.float64), u, value).all()


@pytest.mark.parametrize(("rho", "cut", "kept"), [(0.7, 6.3, 7), (0.9, 8.1, 9), (1.0, 9.0, 9)])
def test_reference_filter_on_ten_errors(rho: float, cut: float, kept: int) -> None:
    assert error_threshold(TENS, rho, reference_compat=True).item() == pytest.approx(cut)
    assert below_threshold(TENS, error_threshold(TENS, rho, reference_compat=True), reference_compat=True).sum() == kept


@pytest.mark.parametrize(("rho", "kept"), [(0.7, 7), (0.9, 9), (1.0, 10), (0.01, 1)])
def test_corrected_filter_keeps_the_share_asked_for(rho: float, kept: int) -> None:
    assert below_threshold(TENS, error_threshold(TENS, rho)).sum() == kept


def test_tied_errors() -> None:
    tied, zeros = doubles(0, 1, 1, 1, 1, 1, 1, 1, 1, 5), torch.zeros(10)
    cut = error_threshold(tied, 0.7, reference_compat=True)
    assert below_threshold(tied, cut, reference_compat=True).nonzero()[:, 0].tolist() == [0]
    assert below_threshold(tied, error_threshold(tied, 0.7)).sum() == 9
    assert not below_threshold(zeros, error_threshold(zeros, 0.7, reference_compat=True), reference_compat=True).any()
    assert below_threshold(zeros, error_threshold(zeros, 0.7)).all()


def test_the_share_is_not_raised_by_rounding() -> None:
    assert 0.07 * 100 > 7
    assert kept_count(100, 0.07) == 7


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.floats(0.01, 1))
def test_kept_errors_are_the_smallest(values: list[float], rho: float) -> None:
    errors = doubles(*values)
    kept = below_threshold(errors, error_threshold(errors, rho))
    assert kept.sum() >= kept_count(len(values), rho)  # more only where errors are tied
    assert (errors[kept] < errors[kept].max()).sum() < kept_count(len(values), rho)
    if not kept.all():
        assert errors[kept].max() < errors[~kept].min()


def test_label_error_is_the_cross_entropy() -> None:
    logits = doubles(2, 0, -1).expand(3, 3)
    expected = [0.1698460, 2.1698460, 3.1698460]
    assert label_errors(logits, torch.arange(3)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("percent", [90, 50])
def test_reference_filter_of_a_class(percent: int) -> None:
    values = fixture("filter_classification")
    label = int(values["assigned_label"])
    burn_in, logits = torch.from_numpy(values["burnin_logits"]), torch.from_numpy(values["logits"])
    burn_in_errors = label_errors(burn_in, torch.full((len(burn_in),), label))
    cut = error_threshold(burn_in_errors, percent / 100, reference_compat=True)
    assert cut.item() == pytest.approx(float(values[f"q{percent}_cutoff"]), rel=1e-4)
    mask = below_threshold(label_errors(logits, torch.full((len(logits),), label)), cut, reference_compat=True)
    kept = mask.nonzero()[:, 0]
    assert kept.tolist() == values[f"q{percent}_kept_index"].tolist()
    assert replaced_labels(logits)[kept].tolist() == values[f"q{percent}_labels_adjust"].tolist()


@pytest.mark.parametrize("nfake", [205, 100, 1_000_000_000])
def test_reference_choice_of_nfake(nfake: int) -> None:
    values = fixture("nfake_selection")
    labels = torch.from_numpy(values["fake_labels"])
    index = select_per_class(labels, nfake, 100, rng(), reference_compat=True)
    counts = torch.bincount(labels[index], minlength=100)
    assert counts.tolist() == values[f"n{nfake}_count_per_class"].tolist()
    assert len(index) + len(values["real_labels"]) == int(values[f"n{nfake}_total_train"])


def test_reference_gives_the_remainder_to_the_last_class() -> None:
    quotas = class_quotas(torch.full((100,), 7), 205, reference_compat=True)
    assert quotas.tolist() == [2] * 99 + [7]
    assert class_quotas(torch.full((100,), 4), 205, reference_compat=True).sum() == 202


def test_corrected_choice_spreads_the_remainder_and_fills_up_from_richer_classes() -> None:
    assert class_quotas(torch.full((100,), 4), 205).tolist() == [3] * 5 + [2] * 95
    assert class_quotas(torch.tensor([1, 10, 10]), 12).tolist() == [1, 6, 5]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(0, 200))
def test_quotas_are_exact_and_as_even_as_the_classes_allow(counts: list[int], nfake: int) -> None:
    quotas = class_quotas(torch.tensor(counts), nfake).tolist()
    assert sum(quotas) == min(nfake, sum(counts))
    assert all(0 <= q <= c for q, c in zip(quotas, counts, strict=True))
    if nfake < sum(counts):
        assert all(q >= max(quotas) - 1 for q, c in zip(quotas, counts, strict=True) if q < c)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 99))
def test_selected_rows_are_distinct_and_repeatable(labels: list[int], nfake: int, seed: int) -> None:
    rows = torch.tensor(labels)
    index = select_per_class(rows, nfake, 5, rng(seed))
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.equal(index, select_per_class(rows, nfake, 5, rng(seed)))
    counts = torch.bincount(rows, minlength=5)
    assert torch.equal(torch.bincount(rows[index], minlength=5), class_quotas(counts, nfake))


def test_reference_uint8_truncates() -> None:
    values = fixture("uint8_denorm")
    levels = to_uint8(torch.from_numpy(values["tanh_out"]), truncate=True)
    assert levels.tolist() == values["uint8"].tolist()
    assert to_uint8(torch.tensor([-1, 0, 0.5, 1]), truncate=True).tolist() == [0, 127, 191, 255]


def test_rounding_returns_every_level_and_has_no_bias() -> None:
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))
    images = torch.rand(100_000, generator=rng()) * 2 - 1
    exact = (images * 0.5 + 0.5) * 255
    assert (to_uint8(images) - exact).mean().abs() < 0.01
    assert (to_uint8(images, truncate=True) - exact).mean().item() == pytest.approx(-0.5, abs=0.01)
    assert to_uint8(torch.tensor([-1.2, 1.2])).tolist() == [0, 255]
