"""Two workers of RGAL hold the same state after every step, so that any one's checkpoint is everyone's."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.workers import in_workers, tensors


def alternation(folder: Path, rank: int, world: int):  # type: ignore[no-untyped-def]
    """A small set-up with every kind of state: latents, kept images, pool, contrast with its ring, adapters."""
    from gankd import models
    from gankd.config import build_config, parse_overrides, read_preset, with_knobs
    from gankd.data import load
    from gankd.registry import find_method
    from methods.rgal.alternation import Alternation
    from methods.rgal.config import RgalConfig
    from tests.methods.rgal_fixtures import context

    preset = read_preset(find_method("rgal").presets, "smoke")
    cfg = build_config(RgalConfig, with_knobs(preset, parse_overrides(["synthesis.cr=0.5", "synthesis.bank=30"])))
    ctx = context(folder)
    ctx.rank, ctx.world_size = rank, world
    torch.manual_seed(0)
    teacher = models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=8).eval().requires_grad_(False)
    ctx.seed_layers(-1)
    return Alternation(ctx, cfg.student, load(cfg.data), teacher, cfg.synthesis)


def learn(rank: int, size: int, folder: Path) -> None:
    """Up to the middle of the second round's synthesis; the state is left in the folder."""
    training = alternation(folder / f"rank{rank}", rank, size)
    for step in range(12):
        training.ctx.seed_layers(step)
        training.step(step, training.ctx.rng(step))
    torch.save(tensors(training.state_dict()), folder / f"{rank}.pt")


def test_two_workers_hold_the_same_state(tmp_path: Path) -> None:
    in_workers(learn, 2, tmp_path, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    pool = next(value for name, value in one.items() if name.endswith("pool/images"))
    assert bool((pool[:20].flatten(1).float().std(1) > 0).all())  # both workers' halves are there
