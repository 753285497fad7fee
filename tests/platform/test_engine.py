"""The training loop: resuming is exact, NaN ends the stage, workers agree."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd.context import Context, device_name
from gankd.engine import Algorithm, train, update
from gankd.errors import StageFailed
from gankd.store import Store
from tests.workers import SERVER

STEPS = 60


class Noisy(Algorithm):
    """A regression with dropout and random inputs: every source of randomness that a stage has."""

    def __init__(self, ctx: Context, poison: int = -1, kill_at: int = -1) -> None:
        network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.ctx, self.network, self.poison, self.kill_at = ctx, network, poison, kill_at
        self.modules = {"network": network}
        self.optimizers = {"network": torch.optim.Adam(network.parameters(), 0.01)}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        images = torch.randn(16, 4, generator=rng)
        loss = (self.network(images) - images.sum(1, keepdim=True)).square().mean()
        if step == self.poison:
            loss = loss * float("nan")
        update(self.ctx, loss, self.optimizers["network"], self.network)
        return {"loss": loss.detach()}

    def evaluate(self, step: int) -> dict[str, float]:
        return {"norm": float(sum(p.norm() for p in self.network.parameters()))}


def context(root: Path, name: str = "stage") -> Context:
    store = Store(root)
    return Context(name, f"{name}-key", 3, store.scratch(f"{name}-key"), store, torch.device("cpu"), checkpoint_seconds=0)


def run(root: Path, steps: int = STEPS, **kwargs: Any) -> Mapping[str, Tensor]:
    ctx = context(root)
    ctx.seed_layers(-1)
    algorithm = Noisy(ctx, **kwargs)
    train(ctx, algorithm, steps=steps, batch=16, evaluate_every=10)
    return algorithm.network.state_dict()


def test_a_killed_run_goes_on_to_bitwise_the_same_weights(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "undisturbed")
    killed = SERVER.Process(target=run, args=(tmp_path / "killed",), kwargs={"kill_at": 37})
    killed.start()
    killed.join(timeout=120)
    assert killed.exitcode == -signal.SIGKILL
    ctx = context(tmp_path / "killed")
    saved = ctx.resume()
    assert saved is not None
    assert saved["step"] == 37
    assert 0 < ctx.earlier < 120  # device-seconds that the killed process had spent
    ctx.checkpoint(saved)
    again = context(tmp_path / "killed")
    assert again.resume() is not None
    assert again.earlier > ctx.earlier  # interrupted twice: the sum
    resumed = run(tmp_path / "killed")
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_a_metric_that_is_not_finite_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"stage: loss became nan by step 8"):
        run(tmp_path, poison=7)


def test_evaluations_are_reported_and_the_last_is_returned(tmp_path: Path) -> None:
    ctx, reported = context(tmp_path), []
    ctx.report = lambda metrics, step: reported.append((step, metrics["stage/norm"]))
    last = train(ctx, Noisy(ctx), steps=25, batch=16, evaluate_every=10)
    assert [step for step, _ in reported] == [10, 20, 25]
    assert last == {"norm": reported[-1][1]}


class Rounds(Noisy):
    """Evaluated after steps 4 and 9 by its own rhythm; trials compare the count that goes on from 100."""

    def due(self, step: int) -> bool:
        return step in (4, 9)

    def clock(self, step: int) -> int:
        return 100 + step

    def evaluate(self, step: int) -> dict[str, float]:
        return {"steps": float(step)}


def test_an_algorithm_says_when_it_is_evaluated_and_in_what_count_it_is_compared(tmp_path: Path) -> None:
    ctx, reported = context(tmp_path), []
    ctx.report = lambda metrics, step: reported.append((step, metrics["stage/steps"]))
    assert train(ctx, Rounds(ctx), steps=12, batch=16) == {"steps": 12}
    assert reported == [(104, 4), (109, 9), (112, 12)]


class Averaging(Context):
    """As if another worker's gradients and statistics were all 1."""

    def average(self, module: nn.Module) -> None:
        for tensor in (*(p.grad for p in module.parameters()), *(b for b in module.buffers() if b.is_floating_point())):
            tensor.fill_(1)  # type: ignore[union-attr]


def test_an_update_steps_down_the_averaged_gradient_at_the_given_rate(tmp_path: Path) -> None:
    ctx = Averaging("stage", "key", 3, tmp_path, Store(tmp_path), torch.device("cpu"))
    first, second = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)), nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD([*first.parameters(), *second.parameters()], 123.0)
    before = [p.detach().clone() for p in (*first.parameters(), *second.parameters())]
    for _ in range(2):  # gradients do not pile up
        update(ctx, second(first(torch.randn(5, 2))).mean(), optimizer, first, second, lr=0.25)
    after = [*first.parameters(), *second.parameters()]
    assert all(torch.equal(new, old - 0.25 - 0.25) for old, new in zip(before, after, strict=True))
    assert first[1].running_mean.tolist() == [1, 1]


def test_an_update_refuses_parameters_that_it_would_not_average(tmp_path: Path) -> None:
    known, forgotten = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizer = torch.optim.SGD([*known.parameters(), *forgotten.parameters()], 0.1)
    with pytest.raises(ValueError, match="in none of the modules"):
        update(context(tmp_path), known(torch.ones(1, 1)).sum(), optimizer, known)


def test_random_draws_depend_on_seed_stage_stream_and_step_only(tmp_path: Path) -> None:
    ctx, other = context(tmp_path), context(tmp_path, "other")
    assert ctx.seed_for(4) == context(tmp_path).seed_for(4)
    assert len({ctx.seed_for(4), ctx.seed_for(5), ctx.seed_for(4, "x"), other.seed_for(4)}) == 4
    assert torch.equal(torch.rand(3, generator=ctx.rng(4)), torch.rand(3, generator=ctx.rng(4)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="names the GPU there")
@pytest.mark.parametrize("linux", [True, False])
def test_a_cpu_is_named_with_what_its_numbers_go_with(monkeypatch: pytest.MonkeyPatch, linux: bool) -> None:
    def cpuinfo(path: Path) -> str:
        if not linux:
            raise FileNotFoundError(path)
        return "processor : 0\nmodel name\t: Some CPU 9000\n"

    monkeypatch.setattr(Path, "read_text", cpuinfo)
    monkeypatch.setattr("platform.processor", lambda: "arm")
    model = "Some CPU 9000" if linux else "arm"
    assert device_name() == f"{model} x{os.cpu_count()} ({torch.backends.cpu.get_cpu_capability()})"
