"""What a sweep varies."""

from ray import tune

SPACE = {"second.number": tune.choice([1])}
