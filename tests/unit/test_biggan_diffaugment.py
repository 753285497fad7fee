"""DiffAugment against reference values with given draws, and its draws."""

import pytest
import torch

from gankd.errors import UserError
from gankd.models import diffaugment
from tests.unit.biggan_fixtures import close, fixture

ALL = ("color", "translation", "cutout")


@pytest.mark.parametrize("name", diffaugment.OPERATIONS)
def test_operation(name: str) -> None:
    expected = fixture("cgan_kd/diffaug")
    draws = [expected[k].flatten() for k in sorted(expected) if k.startswith(f"rand_{name}_draw")]
    values = draws[0] if len(draws) == 1 else torch.stack(draws, 1)
    close(diffaugment.apply(expected["x"], {name: values}), expected[f"rand_{name}_out"], 1e-6)


def test_draws_have_the_right_ranges() -> None:
    draws = diffaugment.draw(4000, 32, 16, ALL, torch.Generator().manual_seed(0))
    assert list(draws) == ["brightness", "saturation", "contrast", "translation", "cutout"]
    rows, columns = draws["translation"].unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (-4, 4, -2, 2)
    rows, columns = draws["cutout"].unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 32, 0, 16)
    odd = diffaugment.draw(4000, 6, 6, ("cutout",), torch.Generator().manual_seed(0))["cutout"]
    assert (odd.min(), odd.max()) == (0, 5)


def test_policy_keeps_its_order() -> None:
    draws = diffaugment.draw(2, 8, 8, ("cutout", "translation"), torch.Generator())
    assert list(draws) == ["cutout", "translation"]


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_a_global_draw_serve_the_workers(channels: int) -> None:
    images = torch.randn(6, channels, 9, 12)
    draws = diffaugment.draw(6, 9, 12, ALL, torch.Generator().manual_seed(1))
    whole = diffaugment.apply(images, draws)
    halves = [slice(0, 3), slice(3, 6)]
    parts = [diffaugment.apply(images[s], diffaugment.rows(draws, s)) for s in halves]
    assert torch.equal(torch.cat(parts), whole)
    again = diffaugment.concatenate(*(diffaugment.rows(draws, s) for s in halves))
    assert torch.equal(diffaugment.apply(images, again), whole)


def test_gradients() -> None:
    images = torch.randn(3, 2, 5, 6, dtype=torch.double, requires_grad=True)
    draws = diffaugment.draw(3, 5, 6, ALL, torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda x: diffaugment.apply(x, draws), images)


def test_unknown_operation() -> None:
    with pytest.raises(UserError, match="color, translation, cutout"):
        diffaugment.draw(1, 8, 8, ("colour",), torch.Generator())
