"""A sweep on a cluster whose nodes are lost and added: every stage made once, nothing lost. Prints what happened and how long it
took.

    python benchmarks/cluster.py [--trials 4] [--nodes 3] [--losses 3] [--seed 0] [--database postgresql | sqlite]

A head without CPUs and three nodes with one each, an S3 server for the store and an MLflow server on PostgreSQL, all on
loopback; the real `tune.py --address` runs cGAN-KD's smoke preset with longer GAN and students. The first node is killed while
it trains the GAN (a shared stage), the next while it trains a student (a trial), further ones at random moments; each time
another one joins. Then it is looked whether the sweep came to its end, each stage was begun no more than once and once more for
each node lost under it, and ended once, all artifacts are there and equal to those of the same sweep without a cluster, all
trials are in MLflow, and the student is registered. Exits with 1 when something was lost. A holder that died on this machine is
seen at once; on another machine its lease must be silent for 30 s first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.simulated_cluster import TUNE, Nodes, mlflow_server, nodes, process, s3_server, set_environment, until

NAME, BUCKET = "cluster", "gankd"
STORAGE = f"s3://{BUCKET}/runs"
PRESET = ["--method", "cgan_kd", "--preset", "smoke", "--scheduler", "fifo", "--checkpoint-seconds", "1", "--name", NAME]
LONGER = ["--set=biggan.steps=300", "--set=student.steps=600"]


class Watch:
    """What can be seen of a sweep from outside: its leases, events and artifacts."""

    def __init__(self, storage: str, folder: Path) -> None:
        from gankd.store import Store
        from gankd.store.events import EventReader
        from gankd.sweep.records import SweepRecords

        self.store = Store(storage, folder)
        self.records = SweepRecords(storage, NAME)
        self.events = EventReader(self.records.events)

    def at_work(self, stage: str = "") -> tuple[str, int] | None:
        """Key and process of whoever trains the stage (or any), once it has written a checkpoint."""
        for info in self.store.storage.list("leases"):
            key = info.name.partition("/")[2].rsplit(".", 2)[0]
            if key.rpartition("-")[0] == (stage or key.rpartition("-")[0]) and self.store.storage.list(f"checkpoints/{key}"):
                try:
                    return key, json.loads(self.store.storage.read_bytes(info.name))["pid"]
                except (FileNotFoundError, ValueError):
                    continue
        return None

    def goes_on(self, key: str, dead: int) -> bool:
        """Whether another process than the dead one has taken up a key, or it is there."""
        found = self.at_work(key.rpartition("-")[0])
        return self.store.has(key) or (found is not None and found[1] != dead)

    def counts(self, kind: str) -> Counter[str]:
        """Key -> how often a stage of it has begun (stage_start), or ended well (stage_end)."""
        events = [event for event in self.events.all() if event["kind"] == kind]
        return Counter(event["key"] for event in events if event.get("status", "finished") == "finished")


def disturb(cluster: Nodes, watch: Watch, sweep: subprocess.Popen[bytes], losses: int, rng: random.Random) -> Counter[str]:
    """Lose nodes under their work, and add others; key -> how many nodes were lost under it."""
    lost: Counter[str] = Counter()
    for number in range(losses):
        stage = ("biggan", "student", "")[min(number, 2)]
        if number >= 2:
            time.sleep(rng.uniform(1, 6))
        try:
            key, pid = until(partial(watch.at_work, stage), f"work on {stage or 'any stage'}", alive=sweep)
        except RuntimeError as error:
            print(f"  {error}")
            return lost
        if (node := cluster.node_of(pid)) is None:
            print(f"  {key}: had ended before its node could be lost")
            continue
        cluster.lose(node)
        lost[key] += 1
        print(f"  {key}: its node is lost, and another one joins", flush=True)
        cluster.add()
        with contextlib.suppress(RuntimeError):  # what it did not take up again will be seen as lost
            until(partial(watch.goes_on, key, pid), f"{key} to be gone on with", alive=sweep)
    return lost


def artifacts(store: Any) -> dict[str, dict[str, str]]:
    """Key -> file -> digest of all artifacts, which are read and verified on the way."""
    keys = {entry.key for entry in store.ls() if not entry.key.startswith("data-")}
    found = {key: store.get(key) for key in keys}
    return {key: {} if artifact is None else dict(artifact.manifest["files"]) for key, artifact in found.items()}


def failures(watch: Watch, lost: Mapping[str, int], code: int, expected: Mapping[str, Any], trials: int) -> list[str]:
    """Sentences on what was lost, or made more often than the losses explain."""
    said = [] if code == 0 else [f"the sweep ended with exit code {code}"]
    begun, ended = watch.counts("stage_start"), watch.counts("stage_end")
    said += [
        f"{key}: begun {count} times, {lost.get(key, 0)} nodes lost"
        for key, count in begun.items()
        if count != 1 + lost.get(key, 0)
    ]
    said += [f"{key}: ended {ended[key]} times" for key in begun if ended[key] != 1]
    made = artifacts(watch.store)
    said += [f"{key}: missing" for key in expected if key not in made]
    said += [f"{key}: not as without a cluster" for key in expected if key in made and made[key] != expected[key]]
    states = Counter(record.status for record in watch.records.trials())
    said += [] if states == {"finished": trials} else [f"trials: {dict(states)}"]
    return said + missing_in_mlflow(trials)


def missing_in_mlflow(trials: int) -> list[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    finished = Counter(run.data.tags.get("gankd.kind") for run in runs if run.info.status == "FINISHED")
    said = [] if finished["trial"] == trials and finished["sweep"] == 1 else [f"finished runs in MLflow: {dict(finished)}"]
    versions = client.search_model_versions("name = 'digits-student'")
    return said + ([] if len(versions) == 1 else [f"{len(versions)} registered versions"])


def alone(folder: Path, flags: list[str]) -> tuple[float, dict[str, Any]]:
    """The same sweep on this machine without a cluster: how long it takes, and its artifacts."""
    folder.mkdir()
    started = time.monotonic()
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    subprocess.run([sys.executable, TUNE, *PRESET, *flags], cwd=folder, env=plain, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started, artifacts(Watch(str(folder / "runs"), folder / "cache").store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--losses", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql", help="of the MLflow server")
    asked = parser.parse_args()
    flags = [*LONGER, "--trials", str(asked.trials)]
    with tempfile.TemporaryDirectory(prefix="gk") as place:
        folder = Path(place)
        set_environment(folder)
        (folder / "driver").mkdir()
        with s3_server(folder, BUCKET), mlflow_server(folder, asked.database):
            with nodes(asked.nodes) as cluster:
                command = [sys.executable, TUNE, *PRESET, *flags, "--address", cluster.address, "--storage", STORAGE]
                started = time.monotonic()
                with process(command, folder / "sweep.log", cwd=folder / "driver") as sweep:
                    watch = Watch(STORAGE, folder / "cache")
                    lost = disturb(cluster, watch, sweep, asked.losses, random.Random(asked.seed))
                    code = sweep.wait()
                seconds = time.monotonic() - started
            if code:
                print((folder / "sweep.log").read_text())
            seconds_alone, expected = alone(folder / "alone", flags)
            said = failures(watch, lost, code, expected, asked.trials)
    print(f"without a cluster: {seconds_alone:.0f} s, {len(expected)} artifacts")
    print(
        f"on {asked.nodes} nodes, {sum(lost.values())} lost under their work and as many added, {asked.database}: {seconds:.0f} s"
    )
    print("\n".join(said) or "every stage was made once, and once more for each node lost under it; nothing was lost")
    sys.exit(bool(said))


if __name__ == "__main__":
    main()
