"""What a sweep survives: a table of kind, tries and survived, through the real `tune.py`.

    python benchmarks/reliability.py [--tries 1] [--seed 0] [kills] [signals] [damages] [together] [disk] [tracker] [node]
                                     [checkpoints] [inputs]

kills: a driver, or a process that trains, is killed at a random moment; the sweep resumed must end in bitwise the artifacts of
an undisturbed one. signals: Ctrl-C and SIGTERM at five moments; the sentence within 5 s, the exit code, no process after 10 s.
damages: five files of each of four kinds of a finished sweep are cut, filled with other bytes, emptied or deleted; resumed, it
must end with its network registered. together, disk, tracker, node, checkpoints: see surroundings.py. inputs: flags, knobs,
spaces and presets that are wrong: one sentence, exit code 2, nothing trained. Exits with 1 when something did not survive.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.surroundings import checkpoints, disk, node, together, tracker
from benchmarks.sweep_process import SMOKE, Sweep, artifacts

LONGER = ("--set=biggan.steps=60", "--set=student.steps=100")
WORKERS = ("ray::RayTrainWorker", "ray::ImplicitFunc", "ray::_run")  # processes that train
SPACE = "from ray import tune\nSPACE = {'student.lr': tune.uniform(0.1, 0.2)}\n"


def kills(rng: random.Random, tries: int, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(kind, what happened, survived)."""
    whole = folder / "whole"
    whole.mkdir()
    started = time.monotonic()
    assert Sweep(whole, *SMOKE, *LONGER).end() == 0
    seconds, expected = time.monotonic() - started, artifacts(whole)
    for attempt in range(2 * tries):
        kind = ("driver killed", "training process killed")[attempt % 2]
        place = folder / f"kill{attempt}"
        place.mkdir()
        sweep, after = Sweep(place, *SMOKE, *LONGER), rng.uniform(0.1, 0.9) * seconds
        time.sleep(after)
        if kind == "driver killed":
            os.killpg(sweep.process.pid, signal.SIGKILL)
        else:
            for worker in [p for p in sweep.family() if p.name().startswith(WORKERS)][:1]:
                worker.kill()
        code = sweep.end()
        if code:
            code = Sweep(place, "--resume", "mine").end()
        missing = not (place / "runs" / "sweeps" / "mine" / "sweep.json").exists()  # killed before there was a sweep
        same = missing or (code == 0 and artifacts(place) == expected)
        yield kind, f"after {after:.0f} of {seconds:.0f} s, exit {code}", same


def signals(rng: random.Random, tries: int, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(kind, what happened, survived)."""
    for moment in ("", "tracked at", "biggan: started", "student: started", "test_student: started"):
        for attempt in range(tries):
            number, group, twice = rng.choice((signal.SIGINT, signal.SIGTERM)), rng.random() < 0.5, rng.random() < 0.5
            place = folder / f"signal-{moment.partition(':')[0]}-{attempt}"
            place.mkdir()
            sweep = Sweep(place, *SMOKE, "--set=student.steps=2000", "--set=biggan.steps=300")
            sweep.wait_for(moment)
            time.sleep(rng.uniform(0.5, 1.5) if not moment else 0)
            sent = time.monotonic()
            for _ in range(1 + twice):
                if sweep.process.poll() is None:  # the second may find it gone
                    (os.killpg if group else os.kill)(sweep.process.pid, number)
                time.sleep(0.3)
            sweep.wait_for("; nothing ")
            said = time.monotonic() - sent
            code = sweep.process.wait(timeout=60)
            while sweep.family() and time.monotonic() - sent < 30:
                time.sleep(0.1)
            gone = time.monotonic() - sent
            well = code == 128 + number and "; nothing " in sweep.said() and said < 5 and gone < 10
            sweep.end()
            how = f"{number.name}{' twice' * twice} to the {'group' if group else 'driver'}"
            yield f"stopped at: {moment or 'start'}", f"{how}: said {said:.1f} s, gone {gone:.1f} s", well


def damages(rng: random.Random, tries: int, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(kind, what happened, survived)."""
    whole = folder / "undamaged"
    whole.mkdir()
    assert Sweep(whole, *SMOKE).end() == 0
    kinds: dict[str, Callable[[Path], object]] = {
        "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
        "other bytes": lambda file: file.write_bytes(rng.randbytes(file.stat().st_size + 1)),
        "emptied": lambda file: os.truncate(file, 0),
        "deleted": lambda file: file.unlink(),
    }
    places = ("runs/artifacts/*/*", "runs/sweeps/mine/trials/*.json", "mlruns/.sent/*.json", "runs/sweeps/mine/events/*/*")
    for attempt in range(20):
        kind, place = list(kinds)[attempt // 4 % 4], folder / f"damage{attempt}"
        shutil.copytree(whole, place)
        pattern = places[attempt % 4]
        victim = rng.choice(sorted(file for file in place.glob(pattern) if file.is_file()))
        kinds[kind](victim)
        sweep = Sweep(place, "--resume", "mine")
        code, said = sweep.end(), sweep.said()
        well = code == 0 and "digits-student version 1" in said and "Traceback" not in said
        shutil.rmtree(place)
        yield f"damaged: {pattern}", f"{victim.relative_to(place)} {kind}, exit {code}", well


def wrong_inputs(place: Path) -> list[list[str]]:
    """Command lines that must be refused."""
    texts = {
        "twice.yaml": "student: {lr: 0.1}\nstudent: {lr: 0.2}\n",
        "alias.yaml": "student: &a [*a]\n",
        "deep.yaml": "[" * 3000,
        "set.yaml": "student: !!set {lr}\n",
        "code.yaml": "student: !!python/object/apply:os.getcwd []\n",
        "bytes.yaml": "\x00",
        "upside.py": SPACE.replace("0.1, 0.2", "0.2, 0.1"),
        "grid.py": SPACE.replace("tune.uniform(0.1, 0.2)", "tune.grid_search(list(range(1000)))"),
        "metric.py": SPACE + "METRIC = 'student/val_acuracy'\n",
        "test.py": SPACE + "METRIC = 'test_student/test_accuracy'\n",
        "random.py": SPACE.replace("uniform(0.1, 0.2)", "randn(0, 1)"),
        "sample.py": SPACE.replace("uniform(0.1, 0.2)", "sample_from(lambda: 0.1)"),
        "fails.py": "1 / 0\n",
    }
    for name, text in texts.items():
        (place / name).write_text(text)
    base = [*SMOKE[:4], "--trials", "1"]
    knobs = (
        *(
            "student.lr=fast",
            "student.steps=100000000000000000000000",
            "seed=" + "9" * 30,
            "seed=-1",
            "biggan.flip=yes",
            "nope=1",
        ),
        *("student=3", "data.path=~nobody-has-this/x", "data.name=digit", "density_ratio.widths=[]", "student.batch=100000"),
        *("data.train_images=3", "data.train_images=99999", "biggan.ema_start=10000", "teacher.network=vgg9", "=3", "student.lr"),
        *("teacher.checkpoint=/nowhere", "quality.extractor=clip", "student.lr=nan", "student.lr=[[1]]", "data.image_size=7"),
    )
    return [
        *([*base, "--set", knob] for knob in knobs),
        *([*base, "--preset", name] for name in ("nope", "x" * 300, "a\udcffb", *(n for n in texts if n.endswith(".yaml")))),
        *([*base, "--space", name] for name in texts if name.endswith(".py") and name not in ("sample.py", "grid.py")),
        *([*base, "--space", name, "--search", "optuna"] for name in ("sample.py", "grid.py")),
        [*base, "--space", "grid.py", "--trials", "1000"],
        *([*base, "--storage", storage] for storage in ("", "~nobody-has-this/x", "/proc/x", "s4://bucket", "fails.py")),
        *([*base, "--name", name] for name in ("a/b", ".hidden", "x" * 200, "")),
        *(["--resume", name] for name in ("", "nope", "../x")),
        *([*base, *flags] for flags in (["--pool", "GPU"], ["--pool", "huge"], ["--gpus-per-worker", "1.5"], ["--time", "soon"])),
        *([*base, *flags] for flags in (["--trials", "0"], ["--workers", "0"], ["--seeds", "-1"], ["--scheduler", "pbt"])),
        ["--preset", "smoke"],
        ["--method", "cgan_kdd"],
    ]


def inputs(rng: random.Random, tries: int, folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(kind, what happened, survived)."""
    place = folder / "inputs"
    place.mkdir()

    def refused(arguments: list[str]) -> tuple[str, str, bool]:
        aside = Path(tempfile.mkdtemp(dir=place))
        for file in place.iterdir():
            if file.is_file():
                shutil.copy(file, aside)
        sweep = Sweep(aside, *arguments)
        code, lines = sweep.end(), sweep.said().strip().splitlines()
        if "--pool" in arguments:  # Ray is asked for it, after the lines that say what is to be swept
            lines = [line for line in lines if line and not line.startswith(("sweep ", "data "))]
        well = code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
        shown = " ".join(arguments[-2:]).encode(errors="replace").decode()[:60]
        return "wrong input", f"{shown}: exit {code}, {lines[-1][:100] if lines else 'silent'}", well

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(refused, wrong_inputs(place))


KINDS: dict[str, Callable[[random.Random, int, Path], Iterator[tuple[str, str, bool]]]] = {
    each.__name__: each for each in (kills, signals, damages, together, disk, tracker, node, checkpoints, inputs)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="KIND", default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--tries", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    table: dict[str, tuple[int, int]] = {}
    for name in asked.what:
        with tempfile.TemporaryDirectory(prefix="gk") as folder:
            for kind, happened, survived in KINDS[name](random.Random(asked.seed), asked.tries, Path(folder)):
                print(f"{'survived' if survived else 'LOST    '}  {kind}: {happened}", flush=True)
                tries, well = table.get(kind, (0, 0))
                table[kind] = tries + 1, well + survived
    print("\n| kind | survived | of |\n|---|---|---|")
    for kind, (tries, well) in table.items():
        print(f"| {kind} | {well} | {tries} |")
    sys.exit(any(well < tries for tries, well in table.values()))


if __name__ == "__main__":
    main()
