"""What a sweep of Squeeze & Span varies by default: how the encoder learns, and from how many images of one generator."""

from typing import Any

from ray import tune

from methods.squeeze_span.config import SqueezeSpanConfig, form

METRIC, MODE = "linear/val_accuracy", "max"


def space(config: SqueezeSpanConfig) -> dict[str, Any]:
    """Only what the preset's recipe reads; the rates reach as far as the preset's own."""
    encoder = config.encoder
    # The control has this too, and the weights: it is tuned as the method is.
    varied: dict[str, Any] = {"encoder.lr": tune.loguniform(encoder.lr / 3, encoder.lr * 3)}
    if form(encoder, "learner") in ("squeeze", "vicreg") and form(encoder, "variance"):
        varied |= {
            "encoder.distillation": tune.loguniform(5, 50),
            "encoder.variance": tune.loguniform(5, 50),
            "encoder.covariance": tune.loguniform(0.1, 10),
        }
    # And these are the method's own.
    if 0 < form(encoder, "alpha") < 1:
        varied["encoder.alpha"] = tune.choice([0.25, 0.5, 0.75])
    if form(encoder, "learner") == "squeeze" and form(encoder, "squeeze_depth"):
        varied["encoder.squeeze_depth"] = tune.choice([1, 2, 3])
        varied["encoder.squeeze_width"] = tune.choice(sorted({encoder.squeeze_width, -(-encoder.squeeze_width // 2)}))
    if "pool" not in encoder.unread():
        varied["pool.images"] = tune.choice(sorted({config.pool.images, -(-config.pool.images // 4)}))
    return varied
