"""Module M2: the teacher's filter and replacement, against worked facts and reference values, with stand-ins for the teacher."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gankd.errors import StageFailed
from methods.cgan_kd.config import SamplesConfig
from methods.cgan_kd.filtering import (
    TeacherFilter,
    below_threshold,
    error_threshold,
    kept_count,
    label_errors,
    replaced_labels,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"
TENS = torch.arange(10, dtype=torch.float64)


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


PERCENTS = sorted(int(key[1:].partition("_")[0]) for key in fixture("filter_classification") if key.endswith("_cutoff"))


@pytest.mark.parametrize("percent", PERCENTS)
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


def teacher(images: torch.Tensor, label: int = 3) -> torch.Tensor:
    """Logits for which the cross-entropy at class `label` is the pixel; the arg max is that class below log 2, else another."""
    share = torch.exp(-images.flatten().double())
    probabilities = torch.full((len(images), max(CLASSES, label + 1)), 1e-300, dtype=torch.float64)
    probabilities[:, 0 if label == 1 else 1], probabilities[:, label] = 1 - share, share
    return probabilities.clamp(min=1e-300).log()


def teacher_filter(sample, quantile: float, teacher=teacher, label: int = 3, **knobs) -> TeacherFilter:
    return TeacherFilter(SamplesConfig(filter_quantile=quantile, **knobs), label, sample, teacher)


def test_reference_loop_asks_for_half_until_enough_are_kept() -> None:
    values = fixture("final_sampler_loop")
    n, label = int(values["nfake"]), int(values["labels_out"][0])
    burn_in, *sizes = values["requested_sizes_in_order"].tolist()
    batches, kept = [torch.linspace(0.1, 1, burn_in)], 0
    for size, fraction in zip(sizes, values["keep_fractions"].tolist()[: len(sizes)], strict=True):
        errors = torch.full((size,), 4.0)
        errors[: round(fraction * size)] = 0.05
        kept += round(fraction * size)
        batches.append(errors)
    source = RecordedSource(*batches)
    knobs = {"filter_burn_in": burn_in, "max_draws": len(sizes) + 1, "reference_compat": True}
    used = teacher_filter(source, 0.9, lambda images: teacher(images, label), label, **knobs)
    images, labels = used.sample(n)
    assert source.sizes == values["requested_sizes_in_order"].tolist()
    assert len(source.sizes) - 1 == int(values["filter_calls"])
    assert len(images) == int(values["n_out"])
    assert labels.tolist() == values["labels_out"].tolist()
    assert (used.seen, used.kept) == (sum(sizes), kept)


def uniform_errors(seed: int = 0):
    generator = seeded(seed)
    return lambda n: torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float64)


def test_filter_keeps_the_share_below_the_threshold() -> None:
    used = teacher_filter(uniform_errors(), 0.7, filter_burn_in=1000, max_draws=20)
    images, labels = used.sample(2000)
    assert used.threshold is not None
    assert used.threshold.item() == pytest.approx(0.7, abs=0.05)
    assert used.kept / used.seen == pytest.approx(0.7, abs=0.05)
    assert images.max().item() <= used.threshold + 1e-9
    assert labels.dtype == torch.int64
    assert (labels == 3).all()


def test_replacement_gives_the_teachers_label() -> None:
    used = teacher_filter(uniform_errors(), 1.0, filter_burn_in=100, max_draws=20, replace_labels=True)
    images, labels = used.sample(200)
    expected = torch.where(images.flatten() < np.log(2), 3, 1)
    assert torch.equal(labels, expected)
    assert set(labels.tolist()) == {1, 3}


def test_equal_errors_pass_by_default_and_end_the_stage_in_the_reference() -> None:
    def same(n: int) -> torch.Tensor:
        return torch.full((n, 1, 1, 1), 0.5, dtype=torch.float64)

    knobs = {"filter_burn_in": 10, "max_draws": 5}
    assert len(teacher_filter(same, 0.9, **knobs).sample(10)[0]) == 10
    with pytest.raises(StageFailed, match=r"filter of class 3 kept 0 of 25 fakes in 5 rounds"):
        teacher_filter(same, 0.9, **knobs, reference_compat=True).sample(10)


def test_a_teacher_that_gives_nan_ends_the_stage() -> None:
    with pytest.raises(StageFailed, match="class 3"):
        teacher_filter(uniform_errors(), 0.9, lambda x: teacher(x) * torch.nan, filter_burn_in=10).sample(10)
