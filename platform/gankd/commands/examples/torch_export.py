"""Runs the exported network on the inputs of check.safetensors. Needs torch and safetensors, and not gankd."""

from pathlib import Path

import torch
from safetensors.torch import load_file

here = Path(__file__).parent
check = load_file(here / "check.safetensors")
wanted = check.pop("output")
network = torch.export.load(here / "model.pt2").module()
with torch.no_grad():
    output = network(*(check[name] for name in sorted(check)))
print("output", tuple(output.shape), "largest difference", float((output - wanted).abs().max()))
