"""`cluster.yaml` passes the validator that `ray up` itself uses, and asks an empty account only for what docs/cluster.md says."""

from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


def test_cluster_file_is_accepted_by_ray() -> None:
    validate_config(prepare_config(yaml.safe_load(CLUSTER.read_text())))


def test_a_typo_in_it_would_be_seen() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    config["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config))


def test_an_empty_account_is_asked_for_a_key_and_a_security_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's own code against a simulated AWS: the default network is taken, and no role is made."""
    from ray.autoscaler._private.aws.config import bootstrap_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = prepare_config(yaml.safe_load(CLUSTER.read_text()))
    region = config["provider"]["region"]
    with mock_aws():
        made = bootstrap_aws(config)
        ec2, iam = boto3.client("ec2", region_name=region), boto3.client("iam")
        (key,) = ec2.describe_key_pairs()["KeyPairs"]
        groups = [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]]
        assert iam.list_roles()["Roles"] == []
    assert Path(made["auth"]["ssh_private_key"]) == tmp_path / ".ssh" / f"ray-autoscaler_{region}.pem"
    assert "ray-autoscaler-gankd" in groups
    for node in (kind["node_config"] for kind in made["available_node_types"].values()):
        assert node["IamInstanceProfile"] == {"Name": "gankd-node"}, "every node writes to the bucket"
        assert node["KeyName"] == key["KeyName"]
        assert node["SubnetIds"]
        assert "ubuntu-24.04" in node["ImageId"], "an image with a Python that we support"
