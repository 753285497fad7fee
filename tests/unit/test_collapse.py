"""A generator that has collapsed: how far its images of a class differ, and the sentence about it."""

import pytest
import torch
from rich.console import Console

from gankd.metrics.collapse import collapse
from gankd.metrics.spread import spread
from gankd.sweep.records import TrialRecord
from gankd.sweep.tables import generator_table


def features(rows: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows, labels


def test_spread_is_that_of_images_of_a_class_over_the_real_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    means = 100 * torch.randn(4, 3, generator=rng)  # how far the classes are apart does not matter
    noise = torch.randn(400, 3, generator=rng)
    real, half, other = (features(means[labels] + scale * noise, labels) for scale in (1.0, 0.5, 1.0))
    assert spread(real, half) == pytest.approx(0.5, rel=1e-5)
    assert spread(real, other) == 1
    assert spread(real, features(means[labels], labels)) == pytest.approx(0, abs=1e-6)
    by_hand = features(torch.tensor([[0.0], [2], [5], [5]]), torch.tensor([0, 0, 1, 1]))  # squares 1 + 1 + 0 + 0 over 2
    assert spread(by_hand, features(torch.tensor([[0.0], [4]]), torch.tensor([0, 0]))) == pytest.approx((8 / 1) ** 0.5)


def test_without_two_images_of_a_class_there_is_no_spread() -> None:
    pairs = features(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]))
    singles = features(torch.randn(4, 2), torch.arange(4))
    alike = features(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))
    assert spread(pairs, singles) is None
    assert spread(singles, pairs) is None
    assert spread(alike, pairs) is None
    assert spread(pairs, alike) == 0


@pytest.mark.parametrize(
    ("recall", "other", "says"),
    [
        (0.1, 0.5, ""),
        (0.09, 0.5, "recall is 0.09)"),
        (0.5, 0.49, "images of a class differ by 0.49 of what real ones do)"),
        (0.0, 0.2, "recall is 0.00 and images of a class differ by 0.20"),
        (0.5, None, ""),
    ],
)
def test_the_sentence(recall: float, other: float | None, says: str) -> None:
    metrics = {"quality/recall_classifier": recall, "quality/fid_classifier": 1.0, "student/val_accuracy": 0.0}
    if other is not None:
        metrics["quality/spread_classifier"] = other
    said = collapse(metrics)
    assert len(said) == bool(says)
    assert all(sentence.startswith("quality: the generated images have collapsed") and says in sentence for sentence in said)


def test_every_stage_and_extractor_is_looked_at() -> None:
    metrics = {"a/recall_classifier": 0.0, "a/recall_clip": 0.0, "b/recall_classifier": 0.9}
    assert [sentence.partition(":")[0] for sentence in collapse(metrics)] == ["a", "a"]
    assert collapse({"recall_x": 0.0})[0].startswith("the generated images")


def test_the_table_has_a_row_for_each_measured_generator() -> None:
    metrics = {
        "quality/recall_classifier": 0.25,
        "quality/fid_classifier": 1.234,
        "ft/recall_clip": 0.5,
        "student/val_accuracy": 3.0,
    }
    table = generator_table(TrialRecord("t", {}, "finished", metrics, {}))
    assert table is not None
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")] == ["quality", "ft"]
    assert "1.23" in text
    assert "0.25" in text
    assert generator_table(TrialRecord("t", {}, "finished", {"student/val_accuracy": 3.0}, {})) is None
