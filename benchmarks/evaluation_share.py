"""The part of a GAN's training time that measuring it takes: the `digits` GAN with its default evaluations.

    python benchmarks/evaluation_share.py [--set KNOB=VALUE ...]

Trains feature classifier, real statistics and GAN of cGAN-KD's preset on one thread (minutes) and prints what the GAN stage
says of itself:
wall time inside evaluations over wall time of the training loop. Prints `ratio: X`, to stay below 0.05, better 0.02.
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

LIMIT = 0.05


def main() -> None:
    method = find_method("cgan_kd")
    tree = with_knobs(read_preset(method.presets, "digits"), parse_overrides(a for a in sys.argv[1:] if a != "--set"))
    config = build_config(method.config, tree)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            "cgan_kd",
            config.model_dump(mode="json"),
            folder,
            stages=("feature_classifier", "real_statistics", "biggan"),
            threads=1,
        )
        metrics = run(job)
    gan = config.biggan
    fids = " (best ".join(f"{metrics[f'biggan/{name}_classifier']:.4g}" for name in ("fid", "best_fid"))
    print(f"{gan.steps} steps, {gan.evaluations} evaluations of {gan.evaluation_images} images")
    print(f"FID {fids}), feature_classifier {metrics['feature_classifier/val_accuracy']:.1f} %")
    print(f"ratio: {metrics['biggan/evaluation_share']:.4f}")
    sys.exit(metrics["biggan/evaluation_share"] > LIMIT)


if __name__ == "__main__":
    main()
