"""`gankd export`: a registered network as files that other programs read without gankd."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd.commands.card import model_card
from gankd.commands.network import registered_network
from gankd.errors import UserError
from gankd.tracking.tracker import Tracker

TOLERANCE = 1e-5  # of the exported network's outputs, in units of the largest output, at least 1
ROWS = 3  # images that it is tried with
SEED = 0
EXAMPLES = Path(__file__).parent / "examples"
Network = Callable[..., Any]


@dataclass(frozen=True)
class Exported:
    """The names of the files, and how far the exported network's outputs are from the registered one's."""

    files: tuple[str, ...]
    difference: float


def export_network(model: str, kind: str, out: Path, data_licence: str) -> Exported:
    """Write a registered network to the new folder `out` as `kind`, with a model card and an example that needs no gankd.

    Raises UserError for an unknown model, a folder that is not empty, a missing library, and outputs that differ; then
    nothing is left behind.
    """
    prepare_folder(out)
    try:
        network, tags = registered_network(Tracker.default_uri(Path.cwd()), model)
        inputs = example_inputs(network)
        difference = check(network, WRITERS[kind](network, inputs, out), inputs, f"{model!r} as {kind}")
        _write_check(network, inputs, out)
        shutil.copyfile(EXAMPLES / f"{kind.replace('-', '_')}.py", out / "example.py")
        (out / "README.md").write_text(model_card(model, kind, network, tags, inputs, data_licence))
    except BaseException:
        for file in out.iterdir():
            file.unlink()
        raise
    return Exported(tuple(sorted(file.name for file in out.iterdir())), difference)


def prepare_folder(out: Path) -> None:
    """Make the folder. Raises UserError when something is in it: an export neither mixes with another nor replaces it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = next(out.iterdir(), None)
    except OSError as error:
        raise UserError(f"--out {str(out)!r} cannot be made ({error.strerror}); choose another folder") from error
    if there is not None:
        raise UserError(f"--out {str(out)!r} is not empty (it holds {there.name!r}); choose a new folder")


def example_inputs(network: Any) -> dict[str, Any]:
    """What the network takes, by name: `ROWS` images in [-1, 1], or latents and labels."""
    import torch

    from gankd.models.generative import is_generator

    rng = torch.Generator().manual_seed(SEED)
    if is_generator(network):
        _, *labels = network.example()
        values = [network.latents(ROWS, rng), *(label[:1].repeat(ROWS) for label in labels)]
    else:
        size = network.recipe["image_size"]
        values = [torch.rand(ROWS, network.recipe["image_channels"], size, size, generator=rng) * 2 - 1]
    return dict(zip(inspect.signature(network.forward).parameters, values))


def check(network: Network, exported: Network, inputs: Mapping[str, Any], what: str) -> float:
    """The largest difference between their outputs. Raises UserError when it is above the tolerance, or NaN."""
    import torch

    with torch.no_grad():
        wanted, found = network(*inputs.values()), torch.as_tensor(exported(*inputs.values()))
    difference = float((wanted - found).abs().max())
    limit = TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not difference <= limit:
        raise UserError(f"{what} gives other outputs (off by {difference:.2g}, allowed {limit:.2g}); choose another --format")
    return difference


def as_safetensors(network: Any, inputs: Mapping[str, Any], out: Path) -> Network:
    """model.safetensors, under the names of the public implementations that ours follow, and recipe.json."""
    from safetensors.torch import load_file, save_file

    from gankd import models

    save_file(
        {name: value.detach().contiguous() for name, value in _public(network).state_dict().items()}, out / "model.safetensors"
    )
    (out / "recipe.json").write_text(json.dumps(network.recipe, indent=2, sort_keys=True))
    again: Network = models.build(**network.recipe).eval()
    _public(again).load_state_dict(load_file(out / "model.safetensors"))
    return again


def _public(network: Any) -> Any:
    """Without our layer that normalises images, which public implementations have not: its numbers are in the recipe."""
    return network.network if network.recipe.get("normalisation") else network


def as_torch_export(network: Any, inputs: Mapping[str, Any], out: Path) -> Network:
    """model.pt2, a program of torch.export for any number of images."""
    import torch

    torch.export.save(torch.export.export(network, tuple(inputs.values()), dynamic_shapes=any_number(inputs)), out / "model.pt2")
    program: Network = torch.export.load(out / "model.pt2").module()
    return program


def as_onnx(network: Any, inputs: Mapping[str, Any], out: Path) -> Network:
    """model.onnx, for any number of images, tried in ONNX Runtime."""
    import torch

    try:
        import onnxruntime

        program = torch.onnx.export(
            network, tuple(inputs.values()), dynamo=True, verbose=False, dynamic_shapes=any_number(inputs),
            input_names=list(inputs), output_names=["output"],
        )  # fmt: skip
    except ImportError as error:
        raise UserError(f"--format onnx needs more packages ({error.name} is missing): pip install 'gankd[export]'") from None
    assert program is not None
    program.save(out / "model.onnx", external_data=False)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda *values: session.run(None, {name: value.numpy() for name, value in zip(inputs, values, strict=True)})[0]


def any_number(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """That the first axis of each input is of any length, the same for all."""
    import torch

    batch = torch.export.Dim("batch")
    return {name: {0: batch} for name in inputs}


WRITERS: dict[str, Callable[[Any, Mapping[str, Any], Path], Network]] = {
    "safetensors": as_safetensors,
    "onnx": as_onnx,
    "torch-export": as_torch_export,
}


def _write_check(network: Network, inputs: Mapping[str, Any], out: Path) -> None:
    """check.safetensors: inputs in the order in which the network takes them, and what it gives for them."""
    import torch
    from safetensors.torch import save_file

    with torch.no_grad():
        output = network(*inputs.values())
    tensors = {f"input_{place}": value for place, value in enumerate(inputs.values())} | {"output": output}
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "check.safetensors")
