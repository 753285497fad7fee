"""What a sweep of Squeeze & Span varies by default: how the encoder learns. Generator and pool are made once."""

from typing import Any

from ray import tune

from methods.squeeze_span.config import SqueezeSpanConfig

METRIC, MODE = "linear/val_accuracy", "max"


def space(config: SqueezeSpanConfig) -> dict[str, Any]:
    """The ranges reach as far as the preset's own values."""
    encoder = config.encoder
    return {
        # The control has these too: it is tuned as the method is.
        "encoder.lr": tune.loguniform(encoder.lr / 3, encoder.lr * 3),
        "encoder.variance": tune.loguniform(5, 50),
        "encoder.covariance": tune.loguniform(0.1, 10),
        # And these are the method's own.
        "encoder.alpha": tune.choice([0.25, 0.5, 0.75]),
        "encoder.squeeze_depth": tune.choice([1, 2, 3]),
        "pool.images": tune.choice(sorted({config.pool.images, -(-config.pool.images // 4)})),
        "encoder.squeeze_width": tune.choice(sorted({encoder.squeeze_width, encoder.squeeze_width // 2})),
    }
