"""The training loop, one for all methods: steps, evaluation, checkpoint and resume, NaN guard, logging.

An algorithm says what one step does; the loop says when to look, when to save, and when to give up. A resumed run equals an
undisturbed one (bitwise on the CPU): the state is the modules and the optimisers, and randomness is derived from the step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context, Stopwatch
from gankd.errors import StageFailed


class Algorithm:
    """What is trained and how. Subclasses fill `modules` and `optimizers` and write `step`.

    `step` returns scalar tensors, still on the device and free of the autograd graph; nothing in it may wait for the device.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Training step number `step`, from 0. `rng` is this step's generator, equal on all ranks."""
        raise TypeError(f"{type(self).__name__} has no step()")

    def evaluate(self, step: int) -> dict[str, float]:
        """Validation metrics after `step` steps, or nothing."""
        return {}

    def due(self, step: int) -> bool:
        """Whether to evaluate after `step` steps, for what has a rhythm of its own; see `evaluate_every` of `train`."""
        return False

    def clock(self, step: int) -> int:
        """The count in which evaluations are logged and trials compared, after `step` steps; it never runs backwards."""
        return step

    def state_dict(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast when `precision` is "bf16", or "auto" on a GPU; nothing otherwise (parameters stay fp32)."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; back to each module's own mode afterwards."""
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def update(ctx: Context, loss: Tensor, optimizer: torch.optim.Optimizer, *modules: nn.Module, lr: float | None = None) -> None:
    """One optimiser step down the gradient of `loss`, averaged over the workers.

    Args:
        modules: what the optimiser trains; their gradients and running statistics are averaged.
        lr: learning rate of all parameter groups for this step and on; None leaves them as they are.

    Raises ValueError when a parameter of the optimiser belongs to none of `modules`: the workers would drift apart.
    """
    ours = {parameter for module in modules for parameter in module.parameters()}
    if not all(parameter in ours for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError("the optimiser has parameters that are in none of the modules given, and so would not be averaged")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for module in modules:
        ctx.average(module)
    if lr is not None:
        for group in optimizer.param_groups:
            group["lr"] = lr
    optimizer.step()


def train(
    ctx: Context, algorithm: Algorithm, *, steps: int, batch: int, evaluate_every: int = 0, log_every: int = 0
) -> dict[str, float]:
    """Run `algorithm` for `steps` steps, from the last checkpoint when there is one.

    Args:
        batch: images per step over all workers, for the rate that is shown.
        evaluate_every: steps between evaluations; 0 = only when `algorithm.due` says so. The last step is always evaluated.
        log_every: steps between logged training metrics (their mean); 0 = a curve of about 200 points.

    Returns the last evaluation. Raises StageFailed when a training metric is no longer finite.
    """
    log_every = log_every or max(1, steps // 200)
    start, evaluation = 0, {}
    if state := ctx.resume():
        algorithm.load_state_dict(state["algorithm"])
        start, evaluation = state["step"], state["evaluation"]
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()  # a metric need not be there at every step
    seen, since = 0, time.monotonic()
    save, show = Stopwatch(ctx.checkpoint_seconds), Stopwatch(1.0)
    for step in range(start, steps):
        ctx.seed_layers(step)
        for name, value in algorithm.step(step, ctx.rng(step)).items():
            sums[name] = sums[name] + value if name in sums else value
            counts[name] += 1
        seen, done = seen + 1, step + 1
        if done % log_every == 0 or done == steps:
            ctx.log(_means(ctx, sums, counts, done), done)
            sums, counts = {}, Counter()
        if (evaluate_every and done % evaluate_every == 0) or algorithm.due(done) or done == steps:
            evaluation = algorithm.evaluate(done)
            if evaluation:
                ctx.evaluated(evaluation, algorithm.clock(done))
        if show.due() or done == steps:
            now = time.monotonic()
            ctx.progress(done, steps, rate=seen * batch / max(now - since, 1e-9))
            seen, since = 0, now
        if save.due() and done < steps:
            ctx.checkpoint({"algorithm": algorithm.state_dict(), "step": done, "evaluation": evaluation})
    return evaluation


def _means(ctx: Context, sums: Mapping[str, Tensor], counts: Mapping[str, int], step: int) -> dict[str, float]:
    """Mean of each metric over its steps and the workers: the loop's one wait for the device. Guards against NaN."""
    if not sums:
        return {}
    stacked = ctx.sum(torch.stack([value.detach().float() for value in sums.values()])) / ctx.world_size
    means = {name: total / counts[name] for name, total in zip(sums, stacked.tolist(), strict=True)}
    for name, value in means.items():
        if not math.isfinite(value):
            raise StageFailed(f"{ctx.stage}: {name} became {value} by step {step}")
    return means
