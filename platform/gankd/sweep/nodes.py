"""What fits on the nodes of a cluster. A worker never spans two nodes, and a part of a GPU never spans two GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gankd.errors import UserError
from gankd.sweep.request import Resources

Nodes = Sequence[Mapping[str, float]]  # of each node what it has in all: {"CPU": 8, "GPU": 1, "<pool>": 1}

MOST_TO_COME = 1000  # nodes of one kind that an autoscaler without a limit is believed to bring
ROUNDING = 1e-6


def nodes_of_ray() -> Nodes:
    """The living nodes of the cluster that this process is connected to or, where it scales by itself, all that may come."""
    import ray

    return nodes_to_come() or [node["Resources"] for node in ray.nodes() if node["Alive"]]


def nodes_to_come() -> Nodes:
    """All nodes that the cluster's autoscaler may have at once, as it has told Ray; none where there is no autoscaler."""
    from ray._private.state import state  # no public name; Ray Train asks the same before it waits for workers

    config = state.get_cluster_config()
    groups = config.node_group_configs if config is not None else []
    many = [(dict(g.resources), MOST_TO_COME if g.max_count < 0 else min(g.max_count, MOST_TO_COME)) for g in groups]
    return [resources for resources, count in many for _ in range(count)]


def workers_on(node: Mapping[str, float], need: Resources) -> int:
    """How many workers fit on a node of which nothing is taken."""
    counts = []
    for kind, each in need.per_worker().items():
        there = node.get(kind, 0)
        if kind == "GPU" and each < 1:
            counts.append(int(there) * int(1 / each + ROUNDING))
        else:
            counts.append(int(there / each + ROUNDING))
    return min(counts)


def concurrency(need: Resources, nodes: Nodes) -> int:
    """How many such trainings fit at once, at least 1."""
    return max(1, sum(workers_on(node, need) for node in nodes) // need.workers)


def room(nodes: Nodes, taken: Resources, need: Resources) -> int:
    """How many trainings that take `need` fit beside one that has `taken`, packed on as few nodes as hold it."""
    left, free = taken.workers, []
    for node in sorted(nodes, key=lambda node: -workers_on(node, taken)):
        here = min(left, workers_on(node, taken))
        left -= here
        free.append({kind: there - here * taken.per_worker().get(kind, 0) for kind, there in node.items()})
    return sum(workers_on(node, need) for node in free) // need.workers


def check_fits(need: Resources, nodes: Nodes, what: str, shared: bool = False) -> None:
    """Refuse what the cluster can never place, before anything starts. `what` asks for it, by the flags of the shared stages."""
    start, asks = ("--shared-", "ask") if shared else ("--", "asks")
    pool = [node for node in nodes if not need.pool or need.pool in node]
    where = f" in the pool {need.pool!r}" if need.pool else ""
    if not pool:
        raise UserError(
            f"{what} {asks} for nodes of the pool {need.pool!r}, but no node has a resource of that name; start some with "
            f"`ray start --resources '{{\"{need.pool}\": 1}}'`, or leave out {start}pool"
        )
    for kind, amount in need.per_worker().items():
        wanted, there = amount * need.workers, sum(node.get(kind, 0) for node in pool)
        if kind != need.pool and wanted > there:
            raise UserError(
                f"{what} {asks} for {wanted:g} {kind}s ({need.workers} worker{'s' * (need.workers > 1)} x {amount:g}), "
                f"but there {'is' if there == 1 else 'are'} {there:g}{where}; "
                f"lower {start}workers or {start}{kind.lower()}s-per-worker"
            )
    fitting = sum(workers_on(node, need) for node in pool)
    if fitting < need.workers:
        each = " and ".join(f"{amount:g} {kind}s" for kind, amount in need.per_worker().items() if kind != need.pool)
        raise UserError(
            f"{what} {asks} for {need.workers} worker{'s' * (need.workers > 1)} with {each} each, and no worker spans two nodes: "
            f"the nodes{where} have room for {fitting}; lower {start}workers or what each of them takes"
        )
