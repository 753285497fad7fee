"""Nearest neighbours, top-k, and the preprocessing of images."""

import pytest
import torch
import torch.nn.functional as F

from gankd.data.views import Blur
from methods.squeeze_span.linear import Lars, top
from methods.squeeze_span.neighbours import votes
from methods.squeeze_span.networks import Normalise
from tests.methods.squeeze_span_fixtures import fixture

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_votes_of_the_nearest() -> None:
    arrays = fixture("knn")
    classes, k, temperature = int(arrays["classes"]), int(arrays["k"]), float(arrays["t"])
    scores = votes(arrays["bank"], arrays["bank_labels"], F.normalize(arrays["query"], dim=1), classes, k, temperature)
    assert (scores.argmax(1) == arrays["pred_order"][:, 0]).all()
    assert top(scores, arrays["query_labels"], 1) == pytest.approx(float(arrays["top1"]))


def test_top_k() -> None:
    arrays = fixture("topk_accuracy")
    for k in (1, 5):
        assert top(arrays["logits"], arrays["labels"], k) == pytest.approx(float(arrays[f"top{k}"]))
    assert top(arrays["logits"][:, :3], torch.zeros(20, dtype=torch.long), 5) == 100  # of fewer classes all are among the first


@pytest.mark.parametrize(("name", "normalisation"), [("cifar", CIFAR), ("imagenet", IMAGENET)])
def test_normalisation_of_images_in_their_range(name: str, normalisation: object) -> None:
    arrays = fixture("preprocess")
    found = Normalise(normalisation)(arrays["image"].clamp(-1, 1))  # type: ignore[arg-type]
    torch.testing.assert_close(found, arrays[f"norm_{name}"], rtol=1e-5, atol=1e-6)
    assert not Normalise(normalisation).state_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize("case", [0, 1])
def test_blur_is_the_references_inside_and_does_not_darken_the_border(case: int) -> None:
    arrays = fixture("preprocess")
    sigma = arrays[f"blur{case}/sigma"].float()
    images = (arrays["image"].clamp(-1, 1) + 1) / 2
    found = Blur(kernel=5).apply(images, sigma.expand(len(images)))
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inside], arrays[f"blur{case}/out"][inside], rtol=1e-4, atol=1e-5)
    ones = Blur(kernel=5).apply(torch.ones(1, 3, 8, 8), sigma.expand(1))
    torch.testing.assert_close(ones, torch.ones(1, 3, 8, 8))  # the reference's corner: 0.39 at sigma 2


def test_lars_scales_a_gradient_unless_a_norm_is_zero() -> None:
    weight, bias = torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.zeros(1))
    weight.grad, bias.grad = torch.tensor([0.0, 2.0]), torch.tensor([0.5])
    Lars([weight, bias], 1.0, momentum=0.0, weight_decay=0.1).step()
    gradient = torch.tensor([0.3, 2.4]) * 1e-3 * 5 / (2 + 0.1 * 5 + 1e-8)
    torch.testing.assert_close(weight.detach(), torch.tensor([3.0, 4.0]) - gradient)
    assert float(bias.detach()) == -0.5  # a parameter of norm 0 takes the step as it is
