"""Module M3: the choice of nfake, and the mixture of a batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.cgan_kd.config import StudentConfig
from methods.cgan_kd.transfer import class_quotas, fakes_per_batch, select_per_class

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


NFAKES = sorted(int(key[1:].partition("_")[0]) for key in fixture("nfake_selection") if key.endswith("_total_train"))


@pytest.mark.parametrize("nfake", NFAKES)
def test_reference_choice_of_nfake(nfake: int) -> None:
    values = fixture("nfake_selection")
    labels, classes = torch.from_numpy(values["fake_labels"]), len(values[f"n{nfake}_count_per_class"])
    index = select_per_class(labels, nfake, classes, seeded(), reference_compat=True)
    counts = torch.bincount(labels[index], minlength=classes)
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
    index = select_per_class(rows, nfake, 5, seeded(seed))
    assert index.tolist() == sorted(set(index.tolist()))
    assert torch.equal(index, select_per_class(rows, nfake, 5, seeded(seed)))
    counts = torch.bincount(rows, minlength=5)
    assert torch.equal(torch.bincount(rows[index], minlength=5), class_quotas(counts, nfake))


@pytest.mark.parametrize(
    ("real_per_fake", "workers", "expected"), [(None, 1, 40), (1.0, 1, 30), (2.0, 1, 20), (0.25, 1, 48), (2.0, 8, 24)]
)
def test_the_mixture_of_a_batch(real_per_fake: float | None, workers: int, expected: int) -> None:
    cfg = StudentConfig(batch=60, real_per_fake=real_per_fake)
    assert fakes_per_batch(cfg, n_real=1000, n_fake=2000, workers=workers) == expected
