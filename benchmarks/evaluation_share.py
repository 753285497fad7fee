"""The part of a GAN's training time that measuring it takes: the `digits` GAN with its default evaluations.

    python benchmarks/evaluation_share.py [--set KNOB=VALUE ...]

Trains feature classifier and GAN of cGAN-KD's preset on one thread (minutes) and prints what the GAN stage logs of itself: wall
time inside evaluations over wall time of the training loop. Prints `ratio: X`, to stay below 0.05, better 0.02.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gankd.config import build_config, parse_overrides, read_preset, with_knobs
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store.events import EventReader
from gankd.store.root import sweep_events

LIMIT = 0.05
STAGES = ("feature_classifier", "biggan")


def main() -> None:
    method = find_method("cgan_kd")
    tree = with_knobs(read_preset(method.presets, "digits"), parse_overrides(a for a in sys.argv[1:] if a != "--set"))
    config = build_config(method.config, tree)
    with tempfile.TemporaryDirectory() as folder:
        metrics = run(Job("cgan_kd", config.model_dump(mode="json"), folder, stages=STAGES, sweep="benchmark", threads=1))
        events, _ = EventReader(sweep_events(folder, "benchmark")).read({})
    logged = [event["values"] for event in events if event["kind"] == "metrics"]
    fids = [values["biggan/fid_classifier"] for values in logged if "biggan/fid_classifier" in values]
    (share,) = (values["biggan/evaluation_share"] for values in logged if "biggan/evaluation_share" in values)
    gan = getattr(config, "biggan")  # noqa: B009
    print(f"{gan.steps} steps, {gan.evaluations} evaluations of {gan.evaluation_images} images")
    print(f"FID {fids[-1]:.4g} (best {min(fids):.4g}), feature_classifier {metrics['feature_classifier/val_accuracy']:.1f} %")
    print(f"ratio: {share:.4f}")
    sys.exit(share > LIMIT)


if __name__ == "__main__":
    main()
