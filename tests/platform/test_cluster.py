"""`cluster.yaml` passes the validator that `ray up` itself uses."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


def test_cluster_file_is_accepted_by_ray() -> None:
    validate_config(prepare_config(yaml.safe_load(CLUSTER.read_text())))


def test_a_typo_in_it_would_be_seen() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    config["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))
