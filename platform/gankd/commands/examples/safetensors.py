"""Lists the weights, which a public implementation of the network takes by these names. Needs safetensors, and not gankd.

check.safetensors holds inputs and what the network gives for them in eval mode.
"""

from pathlib import Path

from safetensors.numpy import load_file

here = Path(__file__).parent
weights, check = load_file(here / "model.safetensors"), load_file(here / "check.safetensors")
for name, value in weights.items():
    print(name, value.shape, value.dtype)
print(f"{sum(value.size for value in weights.values()):,} numbers in {len(weights)} tensors")
print("to check with:", {name: value.shape for name, value in check.items()})
