"""Trials that differ by their number."""

from ray import tune

SPACE = {"nap.number": tune.randint(1, 10**9)}
