"""The regularisers against the specification's worked numbers and values of the authors' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gankd.stages.gan_losses import hinge_generator
from methods.cgan_transfer.losses import combination_l1, residual_l2

FIXTURE = Path(__file__).parents[1] / "fixtures" / "cgan_transfer" / "regularisers.npz"


def test_worked_example() -> None:
    matrix = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 2.0]])
    bias = torch.tensor([0.0, 0.1, 0.0])
    torch.testing.assert_close(combination_l1([matrix]), torch.tensor(0.58333), atol=1e-5, rtol=0)
    torch.testing.assert_close(combination_l1([matrix, bias]), torch.tensor(0.58333 + 0.03333), atol=1e-5, rtol=0)
    torch.testing.assert_close(residual_l2([torch.tensor([[0.05, -0.05]])]), torch.tensor(0.0025))


def numbered(arrays: dict[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """The arrays `name`/0, `name`/1, ..., as leaves."""
    there = sum(key.startswith(f"{name}/") for key in arrays)
    return [arrays[f"{name}/{i}"].requires_grad_() for i in range(there)]


def test_values_and_gradients_of_the_authors_code() -> None:
    with np.load(FIXTURE, allow_pickle=False) as arrays:
        expected = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    comb, res = (numbered(expected, name) for name in ("comb", "res"))
    l1, l2 = combination_l1(comb), residual_l2(res)
    adversarial = hinge_generator(expected["dis_fake"])
    close = torch.testing.assert_close
    close(l1, expected["l1_sum_of_means"])
    close(l2, expected["l2_sum_of_means"])
    close(adversarial, expected["adv_only"])
    loss = adversarial + expected["comb_l1_scale"] * l1 + expected["res_l2_scale"] * l2
    close(loss, expected["g_loss"])
    loss.backward()
    for name, tensors in (("comb", comb), ("res", res)):
        for i, tensor in enumerate(tensors):
            close(tensor.grad, expected[f"grad_{name}/{i}"])
