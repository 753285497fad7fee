"""Runs the exported network on the inputs of check.safetensors. Needs numpy, onnxruntime and safetensors, and not gankd."""

from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

here = Path(__file__).parent
check = load_file(here / "check.safetensors")
wanted = check.pop("output")
session = onnxruntime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
names = [each.name for each in session.get_inputs()]
(output,) = session.run(None, dict(zip(names, (check[name] for name in sorted(check)), strict=True)))
print("output", output.shape, "largest difference", float(np.abs(output - wanted).max()))
