"""What fails around a sweep: other sweeps on its storage, the disk, the tracker, a node, a checkpoint that somebody sent.

Each function yields (kind, what happened, survived) for each of its tries. together: four sweeps at once on one storage; each
ends, and a stage is made once by one of them. disk: a file system that is too small ends the sweep in a sentence; resumed on a
larger one, it ends as an undisturbed one. tracker: the MLflow server is killed, the sweep ends, and resumed beside a new
server, it is all there. node: one of three nodes of a cluster is lost under its work (cluster.py). checkpoints: ten files that
are given as a teacher and are none: one sentence, exit code 2, and nothing that they hold is run.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.simulated_cluster import answers, free_port, process, until
from benchmarks.sweep_process import ROOT, SMOKE, TUNE, Sweep, artifacts

Tried = Iterator[tuple[str, str, bool]]


def undisturbed(folder: Path) -> dict[str, str]:
    """The artifacts of the sweep where nothing fails."""
    folder.mkdir()
    assert Sweep(folder, *SMOKE).end() == 0
    return artifacts(folder)


def together(rng: random.Random, tries: int, folder: Path) -> Tried:
    expected = undisturbed(folder / "alone")
    for attempt in range(tries):
        place = folder / f"together{attempt}"
        place.mkdir()
        names = [f"sweep{number}" for number in range(4)]
        sweeps = [Sweep(place, *SMOKE[:-1], name, output=f"{name}.txt") for name in names]
        codes = [sweep.end() for sweep in sweeps]
        made = Counter(event["key"] for event in events(place) if event["kind"] == "stage_end" and event["status"] == "finished")
        once = set(made.values()) == {1}
        well = codes == [0] * 4 and once and artifacts(place) == expected
        yield "four sweeps at once on one storage", f"exit codes {codes}, {len(made)} stages, each made once: {once}", well


def events(place: Path) -> list[dict[str, Any]]:
    """Of all sweeps in a folder."""
    chunks = (place / "runs" / "sweeps").glob("*/events/**/*.jsonl")
    return [json.loads(line) for chunk in chunks for line in chunk.read_text().splitlines()]


DISK = """
mount -t tmpfs -o size=$1k tmpfs runs
"$3" "$4" $5 >first.txt 2>&1
echo $? >code.txt
mount -o remount,size=$2k runs
"$3" "$4" --resume mine
code=$?
cp -r runs kept
exit $code
"""


def disk(rng: random.Random, tries: int, folder: Path) -> Tried:
    expected = undisturbed(folder / "alone")
    used = sum(file.stat().st_size for file in (folder / "alone" / "runs").rglob("*") if file.is_file()) // 1024
    for attempt in range(tries):
        place, share = folder / f"disk{attempt}", rng.uniform(0.2, 0.8)
        (place / "runs").mkdir(parents=True)
        script = place / "disk.sh"
        script.write_text(DISK.replace("$5", " ".join(SMOKE)))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
        small, large = str(int(used * share)), str(used * 100)
        with (place / "second.txt").open("w") as output:
            code = subprocess.run(
                ["unshare", "--user", "--map-root-user", "--mount", "sh", str(script), small, large, sys.executable, TUNE],
                cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        first, said = (place / "code.txt").read_text().strip(), (place / "first.txt").read_text()
        (place / "kept").rename(place / "done")
        (place / "runs").rmdir()
        (place / "done").rename(place / "runs")
        well = first == "2" and code == 0 and "Traceback" not in said and artifacts(place) == expected
        yield "full disk, then a larger one", f"{share:.0%} of what it takes: exit {first}, resumed: {code}", well


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[Any]:
    """An MLflow server on the folder's own database."""
    from gankd.commands.ui import server_command

    command = [
        *server_command(f"sqlite:///{folder}/server.db", "127.0.0.1", port),
        "--artifacts-destination",
        str(folder / "served"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with process(command, folder / "server.log", cwd=folder, env=environment) as started:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), "the MLflow server", alive=started)
        yield started


def tracker(rng: random.Random, tries: int, folder: Path) -> Tried:
    from mlflow.tracking import MlflowClient

    for attempt in range(tries):
        place, port = folder / f"tracker{attempt}", free_port()
        place.mkdir()
        uri = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        moment = rng.choice(("biggan: started", "samples: started", "student: started"))
        with server(place, port):
            sweep = Sweep(place, *SMOKE, env=uri)
            sweep.wait_for(moment)
        code, away = sweep.end(), sweep.said()
        with server(place, port):
            again = Sweep(place, "--resume", "mine", env=uri)
            resumed = again.end()
            client = MlflowClient(uri["MLFLOW_TRACKING_URI"])
            runs = client.search_runs([each.experiment_id for each in client.search_experiments()], max_results=1000)
            ended = Counter(run.data.tags.get("gankd.kind") for run in runs if run.info.status == "FINISHED")
            versions = client.search_model_versions("name = 'digits-student'")
        trials = [json.loads(file.read_text())["status"] for file in (place / "runs/sweeps/mine/trials").glob("*.json")]
        whole = ended["trial"] == 2 and ended["sweep"] == 1 and len(versions) == 1
        well = "Traceback" not in away and trials == ["finished"] * 2 and resumed == 0 and whole
        happened = f"killed at {moment}: exit {code}, resumed: {resumed}; finished runs {dict(ended)}, {len(versions)} version"
        yield "tracking server killed under a sweep", happened, well


def node(rng: random.Random, tries: int, folder: Path) -> Tried:
    for _ in range(tries):
        seed = str(rng.randrange(1000))
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "cluster.py"),
            "--losses",
            "1",
            "--trials",
            "2",
            "--database",
            "sqlite",
        ]
        done = subprocess.run([*command, "--seed", seed], cwd=folder, capture_output=True, text=True, check=False)
        last = done.stdout.strip().splitlines()[-2:]
        yield "node of a cluster lost under its work", f"seed {seed}: {'; '.join(last)}", done.returncode == 0


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


def hostile(place: Path) -> list[Path]:
    """Ten files that are no weights."""
    import numpy as np
    import torch

    mark, plain = place / "ran", {"conv.weight": torch.zeros(3, 3)}
    files = {name: place / name for name in ("code.pth", "beside.pth", "raw.pkl", "objects.npz", "cut.pth", "huge.safetensors")}
    torch.save(Runs(mark), files["code.pth"])
    torch.save({"state_dict": plain, "config": Runs(mark)}, files["beside.pth"])
    files["raw.pkl"].write_bytes(pickle.dumps(Runs(mark)))
    np.savez(files["objects.npz"], weight=np.array([Runs(mark)], dtype=object))
    torch.save(plain, files["cut.pth"])
    os.truncate(files["cut.pth"], files["cut.pth"].stat().st_size // 2)
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}).encode()
    files["huge.safetensors"].write_bytes(struct.pack("<Q", len(header)) + header)
    endless = place / "endless.safetensors"
    endless.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    bomb = place / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", bytes(300 * 2**20))
    deep = place / "deep.pth"
    deep.write_bytes(b"\x80\x04" + b"]" * 10**5 + b".")
    other = place / "other.pth"
    torch.save(plain, other)  # weights, of another network
    return [*files.values(), endless, bomb, deep, other]


def checkpoints(rng: random.Random, tries: int, folder: Path) -> Tried:
    for file in hostile(folder):
        sweep = Sweep(folder, *SMOKE, "--set", f"teacher.checkpoint={file.name}")
        code, lines = sweep.end(), sweep.said().strip().splitlines()
        well = code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and not (folder / "ran").exists()
        yield "hostile checkpoint", f"{file.name}: exit {code}, {lines[-1][:110] if lines else 'silent'}", well
