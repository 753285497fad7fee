"""What fits on nodes: parts of GPUs, pools, workers that span no two nodes; and how many trials run at once."""

from __future__ import annotations

import pytest

from gankd.errors import UserError
from gankd.sweep import searcher as searching
from gankd.sweep.nodes import Nodes, check_fits, concurrency, nodes_to_come, room
from gankd.sweep.request import Resources, request_of
from gankd.sweep.searcher import AsManyAsFit, Listed

GPU_NODE = {"CPU": 8.0, "GPU": 2.0}
BIG, SMALL = {"CPU": 8.0, "GPU": 8.0, "big": 1.0}, {"CPU": 4.0, "GPU": 1.0, "small": 1.0}


@pytest.mark.parametrize(
    ("need", "nodes", "count"),
    [
        (Resources(), [{"CPU": 2.0}], 2),
        (Resources(), [{"CPU": 1.5}] * 2, 2),  # a worker spans no two nodes
        (Resources(2, 1), [{"CPU": 3.0}] * 2, 3),  # a training may
        (Resources(1, 1, 0.25), [GPU_NODE], 8),
        (Resources(1, 0.5, 0.4), [GPU_NODE], 4),  # 2 / 0.4 would be 5, but no worker spans two GPUs
        (Resources(1, 0.1, 0.1), [{"CPU": 1.0, "GPU": 1.0}], 10),
        (Resources(1, 1, 2), [GPU_NODE, {"CPU": 8.0, "GPU": 1.0}], 1),
        (Resources(1, 1, 0.5, "small"), [BIG, SMALL, SMALL], 4),
        (Resources(1, 1, 0, "gone"), [BIG], 1),  # never 0: who cannot be placed is refused before
    ],
)
def test_as_many_as_fit(need: Resources, nodes: Nodes, count: int) -> None:
    assert concurrency(need, nodes) == count


def test_room_is_what_the_shared_stages_leave() -> None:
    one = Resources()
    assert room([{"CPU": 2}], one, one) == 1
    assert room([{"CPU": 1}], one, one) == 0
    assert room([{"CPU": 8}], Resources(2, 2), one) == 4
    gpu = Resources(1, 1, 1)
    assert room([{"CPU": 8, "GPU": 1}], gpu, gpu) == 0
    assert room([{"CPU": 8, "GPU": 3}], gpu, gpu) == 2
    assert room([BIG, SMALL], Resources(8, 1, 1, "big"), Resources(1, 1, 0.5, "small")) == 2
    assert room([{"CPU": 2}, {"CPU": 2}], Resources(3), Resources(2)) == 0


@pytest.mark.parametrize(
    ("need", "nodes", "shared", "said"),
    [
        (Resources(2, 2), [{"CPU": 3.0}], False, r"a job asks for 4 CPUs \(2 workers x 2\), but there are 3; lower --workers or"),
        (Resources(1, 1, 1), [{"CPU": 3.0}], True, r"1 GPUs .* there are 0; lower --shared-workers or --shared-gpus-per-worker"),
        (
            Resources(1, 1, 0, "big"),
            [SMALL],
            True,
            r"pool 'big', but no node .*ray start --resources '\{\"big\": 1\}'.* --shared-pool",
        ),
        (
            Resources(1, 1, 2, "small"),
            [BIG, SMALL],
            False,
            r"there is 1 in the pool 'small'; lower --workers or --gpus-per-worker",
        ),
        (
            Resources(1, 4),
            [{"CPU": 3.0}] * 2,
            False,
            r"1 worker with 4 CPUs each, .* spans two nodes: .* room for 0; lower --workers",
        ),
        (Resources(3, 2), [{"CPU": 3.0}] * 2, False, r"3 workers with 2 CPUs each, .* room for 2"),
    ],
)
def test_what_never_fits_is_refused(need: Resources, nodes: Nodes, shared: bool, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_fits(need, nodes, "a job", shared)


@pytest.mark.parametrize(
    "need", [Resources(2, 4), Resources(4, 1, 0.5), Resources(8, 1, 1, "big"), Resources(1, 1, 0.0001, "small")]
)
def test_what_fits_is_not_refused(need: Resources) -> None:
    check_fits(need, [BIG, SMALL], "a job")


def test_cores_may_be_any_number_and_gpus_parts_of_one_or_whole() -> None:
    assert request_of({"method": "m", "cpus_per_worker": 1.5, "gpus_per_worker": 2}).resources(1) == Resources(1, 1.5, 2)


def test_shared_stages_take_what_is_asked_for_them_and_else_what_trials_take() -> None:
    plain = request_of({"method": "m", "workers": 2, "cpus_per_worker": 2})
    assert plain.shared_resources() == plain.resources(2) == Resources(2, 2)
    flags = {"gpus_per_worker": 0.25, "pool": "small", "shared_workers": 8, "shared_gpus_per_worker": 1, "shared_pool": "big"}
    apart = request_of({"method": "m", **flags, "shared_cpus_per_worker": 4})
    assert apart.resources(1) == Resources(1, 1, 0.25, "small")
    assert apart.shared_resources() == Resources(8, 4, 1, "big")
    assert apart.shared_resources().per_worker() == {"CPU": 4, "GPU": 1, "big": 0.001}


def test_nodes_that_join_are_used_and_those_that_leave_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"CPU": 2.0}]
    search = AsManyAsFit(Listed([{"student.lr": value / 10} for value in range(9)]), Resources(), nodes, lambda: nodes)
    assert [search.suggest(f"{number}") is not None for number in range(4)] == [True, True, False, False]
    nodes.append({"CPU": 1.0})
    assert search.suggest("early") is None
    monkeypatch.setattr(searching, "LOOK_S", -1.0)
    assert search.suggest("third") is not None
    del nodes[:]
    assert search.suggest("fourth") is None
    for trial in ("0", "1"):
        search.on_trial_complete(trial, {})
    assert search.suggest("fifth") is None, "one still runs, and one fits at least"
    search.on_trial_complete("third", {})
    assert search.suggest("sixth") is not None


def test_what_an_autoscaler_may_bring_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.state import state
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    head = NodeGroupConfig(name="head", resources={"CPU": 0}, max_count=0)
    workers = NodeGroupConfig(name="gpu", resources={"CPU": 8, "GPU": 1}, max_count=4)
    monkeypatch.setattr(state, "get_cluster_config", lambda: ClusterConfig(node_group_configs=[head, workers]))
    assert concurrency(Resources(1, 1, 0.5), nodes_to_come()) == 8
    workers.max_count = -1
    monkeypatch.setattr(state, "get_cluster_config", lambda: ClusterConfig(node_group_configs=[workers]))
    assert len(nodes_to_come()) > 100
    for nothing in (None, ClusterConfig()):
        monkeypatch.setattr(state, "get_cluster_config", lambda nothing=nothing: nothing)
        assert nodes_to_come() == []
