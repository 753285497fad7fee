"""A whole sweep from start to end: tracking, the shared stages, the trials, the choice, the test scores, the registry."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from gankd import __version__, interrupt
from gankd.data import load
from gankd.data.config import VISION
from gankd.errors import StageFailed, UserError
from gankd.method import flatten
from gankd.metrics.collapse import collapse
from gankd.naming import changed_code, name_artifacts
from gankd.pictures import trial_curves
from gankd.prepared_data import obtain
from gankd.store import Store
from gankd.store.events import EventReader, EventWriter
from gankd.sweep.conclusion import Conclusion, draw_conclusion, notes, summary, validation_curves, what_numbers_depend_on
from gankd.sweep.display import Live
from gankd.sweep.filled import FilledTable
from gankd.sweep.filling import fill, record_table
from gankd.sweep.plan import Sweep
from gankd.sweep.progress import cost
from gankd.sweep.records import TrialRecord
from gankd.sweep.registering import register_best
from gankd.sweep.table import TableSpec
from gankd.sweep.tables import gain_table, generator_table, score_table, seeds_table, trial_table
from gankd.tracking.provenance import DataInput
from gankd.tracking.tracker import Tracker

if TYPE_CHECKING:
    from gankd.sweep.jobs import Cluster
    from gankd.sweep.nodes import Nodes


def run_experiment(sweep: Sweep, address: str | None, console: Console) -> None:
    """Run the sweep, or what is left of it. Raises UserError when nothing came out of it, KeyboardInterrupt as it comes."""
    from gankd.sweep.remarks import remarks  # imports Ray

    sweep.records.save_request(sweep.request.model_dump(mode="json"))
    sweep.records.forget_failures()
    with ExitStack() as stack:
        tracker = open_tracker(sweep)
        events = EventWriter(sweep.records.events, "sweep")
        outcome = "stopped"
        try:
            tracker.start()
            # Ray starts when something has to run; a sweep whose results are all known ends without it.
            cluster = cache(partial(_start_ray, sweep, address, stack))
            console.print(f"sweep [bold]{sweep.name}[/] in {escape(sweep.storage)}, tracked at {escape(tracker.uri)}")
            data = load(sweep.config.data)
            for sentence in (data.parts_sentence, *data.remarks):
                console.print(sentence, markup=False)
            announce(sweep, console)
            for sentence in remarks(sweep, this_machine=not address):
                console.print(sentence)
            with Live(console, sweep, EventReader(sweep.records.events)):
                if sweep.table is not None:
                    filled = _fill(sweep, sweep.table, cluster)
                else:
                    conclusion = draw_conclusion(sweep, _train(sweep, cluster), cluster)
            if sweep.table is not None:
                for key, manifest in filled.manifests.items():
                    tracker.stage_from_store(key, manifest)
                record_table(sweep, filled, events, console)
            else:
                _record_conclusion(sweep, conclusion, tracker, events, console, cluster)
            outcome = "finished"
        except (UserError, StageFailed):
            outcome = "failed"
            raise
        except KeyboardInterrupt:
            interrupt.say()
            with suppress(OSError, UserError):  # a storage that is away does not keep it from ending
                console.print(cost(EventReader(sweep.records.events).all()))
            raise
        finally:
            events.close()
            unsent = tracker.close(wait_s=30.0 if outcome == "finished" else 2.0)
            ended = tracker.finish(outcome)
            if unsent or not ended:
                waiting = f"{unsent} events could not be sent to {tracker.uri}; they wait in {sweep.records.events}"
                console.print(f"{waiting} until the sweep is gone on with by --resume {sweep.name}", markup=False)


def open_tracker(sweep: Sweep) -> Tracker:
    """The sweep's run in MLflow. Raises UserError when the tracking store refuses."""
    here = Path.cwd()
    tracker = Tracker(
        Tracker.default_uri(here),
        sweep.experiment,
        here / "mlruns",
        sweep.name,
        EventReader(sweep.records.events),
        here / "mlruns" / ".sent" / f"{sweep.name}.json",
        data_input(sweep),
    )
    tags = {
        "gankd.method": sweep.method.name,
        "gankd.dataset": sweep.dataset,
        "gankd.data": sweep.fingerprint,
        "gankd.mode": sweep.space.mode,
        "gankd.metric": sweep.space.metric,
        "gankd.version": __version__,
    }
    tracker.open_sweep(flatten(sweep.tree), tags)
    return tracker


def data_input(sweep: Sweep) -> DataInput:
    """The sweep's data as its runs show it."""
    config = sweep.config.data
    data = load(config)
    parts = {"train": data.train, "validation": data.val, "test": data.test_part}
    package = "torchvision" if config.name in VISION else "scikit-learn"
    return DataInput(
        name=sweep.dataset,
        fingerprint=sweep.fingerprint,
        source=config.path or package,
        image_shape=data.train.images.shape[1:],
        images={part: len(split) for part, split in parts.items() if split is not None},
        in_all_trials=not any(knob.startswith("data.") for knob in sweep.space.samplers),
    )


def _start_ray(sweep: Sweep, address: str | None, stack: ExitStack) -> Nodes:
    import ray

    from gankd.sweep.launch import start_ray
    from gankd.sweep.nodes import check_fits, nodes_of_ray

    start_ray(address)
    stack.callback(ray.shutdown)
    nodes = nodes_of_ray()
    check_fits(sweep.request.resources(sweep.request.workers), nodes, "a trial")
    obtain(Store(sweep.storage), sweep.config.data, sweep.fingerprint)  # once for all; the private copy is given back
    load.cache_clear()
    if sweep.shared():
        check_fits(sweep.request.shared_resources(), nodes, "the shared stages", shared=True)
    return nodes


def _train(sweep: Sweep, cluster: Cluster) -> list[TrialRecord]:
    # Tune would swallow Ctrl-C and end as if all were well.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    from gankd.sweep.beside import controls_beside
    from gankd.sweep.trials import run_trials

    with controls_beside(sweep, cluster):
        _make_shared(sweep, cluster)
        return run_trials(sweep, cluster)


def _make_shared(sweep: Sweep, cluster: Cluster) -> None:
    from gankd.sweep.trials import run_shared

    try:
        run_shared(sweep, cluster)
    except StageFailed as error:
        raise UserError(f"the sweep cannot start, its shared stages failed: {error}") from None


def _fill(sweep: Sweep, table: TableSpec, cluster: Cluster) -> FilledTable:
    """The rows of a table. Over seeds, what they share is made for each of them, and not for the sweep's own."""
    if not sweep.request.seeds:
        _make_shared(sweep, cluster)
    return fill(sweep, table, cluster)


def announce(sweep: Sweep, console: Console) -> None:
    """Say in one line what is trained again because its code changed."""
    names = name_artifacts(sweep.method, sweep.config, sweep.fingerprint)
    store = Store(sweep.storage)
    old = {}
    for stage in sweep.method.made(sweep.config):
        earlier = store.of_recipe(names.recipes[stage.name]) if not store.has(names.keys[stage.name]) else []
        manifest = store.manifest(earlier[-1]) if earlier else None
        if manifest:
            old[stage.name] = manifest
    if not old or not sweep.request.reuse:
        return
    edited = changed_code(names, old)
    others = [stage for stage in old if stage not in edited]
    what = f"code changed: {', '.join(edited or old)}"
    if sweep.request.reuse_stale:
        console.print(f"{what}; --reuse-stale takes what the old code made of {', '.join(old)}")
    else:
        needing = f", and with it {', '.join(others)}" if edited and others else ""
        console.print(f"{what} is trained again{needing} (--reuse-stale takes what the old code made)")


def _record_conclusion(
    sweep: Sweep, conclusion: Conclusion, tracker: Tracker, events: EventWriter, console: Console, cluster: Cluster
) -> None:
    """Show, track and register what was found."""
    store = Store(sweep.storage)
    for key in {key for record in conclusion.records for key in record.keys.values()}:
        if manifest := store.manifest(key):
            tracker.stage_from_store(key, manifest)
    events.emit("metrics", step=0, values=summary(sweep, conclusion))
    facts = what_numbers_depend_on(sweep, conclusion.best, store)
    events.emit("tags", tags={f"gankd.comparable.{of}": json.dumps(each, sort_keys=True) for of, each in facts.items()})
    if curves := validation_curves(sweep, conclusion.records):
        events.emit("image", name="trials", step=0, png=trial_curves(curves, sweep.watched_metric))
    events.flush()
    console.print(trial_table(sweep, conclusion.records, conclusion.best))
    console.print(score_table(sweep, conclusion.best, conclusion.tests))
    if table := generator_table(conclusion.best):
        console.print(table)
    for sentence in (*collapse(conclusion.best.metrics), *notes(conclusion.best, Store(sweep.storage))):
        console.print(sentence, markup=False)
    if table := gain_table(sweep, conclusion):
        console.print(table)
    if conclusion.repeated:
        console.print(seeds_table(sweep, conclusion.repeated))
    for line in register_best(sweep, conclusion.best, conclusion.tests, tracker, cluster):
        console.print(line)
