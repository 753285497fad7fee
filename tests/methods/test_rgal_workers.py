"""Two workers of RGAL hold the same state after every step, so that any one's checkpoint is everyone's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]

WORKER = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from tests.methods.test_rgal_workers import alternation, flat
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
training = alternation(folder / f"rank{rank}", rank, 2)
for step in range(12):  # in the middle of the second round's synthesis
    training.ctx.seed_layers(step)
    training.step(step, training.ctx.rng(step))
torch.save(flat(training.state_dict()), folder / f"{rank}.pt")
"""


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


def flat(state: object, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state by their path."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{name}/{key}").items()}
    if isinstance(state, list):
        return {k: v for i, value in enumerate(state) for k, v in flat(value, f"{name}/{i}").items()}
    return {}


def test_two_workers_hold_the_same_state(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path)],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    pool = next(value for name, value in one.items() if name.endswith("pool/images"))
    assert bool((pool[:20].flatten(1).float().std(1) > 0).all())  # both workers' halves are there
