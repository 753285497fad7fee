"""Adam's moments from one stage to the next, by the names of the parameters: stage FT goes on where BN ended."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from gankd.stages.gan import GANTraining

FILE = "moments.safetensors"


def save_moments(training: GANTraining, folder: Path) -> None:
    """Write the state of both optimisers: `<network>/<parameter>/<exp_avg, exp_avg_sq, step>`."""
    tensors: dict[str, Tensor] = {}
    for network, optimizer in training.optimizers.items():
        for name, parameter in training.modules[network].named_parameters():
            for kind, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{network}/{name}/{kind}"] = value.detach().cpu().contiguous()
    save_file(tensors, folder / FILE)


def load_moments(training: GANTraining, folder: Path) -> None:
    """Give the state that `save_moments` wrote to parameters that are still trained; the others start without."""
    tensors = load_file(folder / FILE)
    for network, optimizer in training.optimizers.items():
        trained = {p for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in training.modules[network].named_parameters():
            prefix = f"{network}/{name}/"
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if state and parameter in trained:
                # In the parameter's memory format: fused Adam walks both in the order in which they lie in memory.
                moments = {kind: value.to(parameter.device) for kind, value in state.items() if kind != "step"}
                laid_out = {kind: parameter.detach().clone().copy_(value) for kind, value in moments.items()}
                optimizer.state[parameter] = {"step": state["step"].to(parameter.device), **laid_out}
