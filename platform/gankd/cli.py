"""The commands and their flags. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gankd import __version__, interrupt
from gankd.commands.tune import Tune, start_sweep
from gankd.errors import UserError
from gankd.paths import DEFAULT_STORAGE
from gankd.paths import absolute_storage as absolute

if TYPE_CHECKING:
    from rich.console import Console

STORAGE = click.option(
    "--storage", default=DEFAULT_STORAGE, show_default=True, help="Folder or bucket URI for artifacts, checkpoints and records."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gankd")
def cli() -> None:
    """Move knowledge into and out of GANs: pipelines of stages on Ray and MLflow, no stage trained twice."""


@cli.command(cls=Tune)
@click.option("--set", "assignments", multiple=True, metavar="KNOB=VALUE", help="Override a knob, e.g. student.lr=0.05.")
@click.option("--pretrained", metavar="FILE", help="Networks of the user's own to start from, where the method takes some.")
@click.option("--address", help="Ray cluster to run on: auto, or host:port.  [default: this machine alone]")
@click.option("--time", "allowed", metavar="TIME", help="Stop after so long, as by Ctrl-C, e.g. 90s, 30m, 2h.  [default: never]")
@click.option("--name", help="Name of the sweep.  [default: method, preset and time]")
@click.option("--resume", "resumed", metavar="NAME", help="Go on with a sweep that was interrupted.")
@STORAGE
def tune(
    resumed: str | None,
    assignments: tuple[str, ...],
    pretrained: str | None,
    address: str | None,
    allowed: str | None,
    **flags: Any,
) -> None:
    """Sweep a method's knobs: shared stages once, then the trials, then the test of the best one."""
    start_sweep(resumed, assignments, pretrained, address, allowed, flags, console())


@cli.command()
@click.argument("name")
@STORAGE
def status(name: str, storage: str) -> None:
    """A sweep seen from another terminal: what trains now, by whom and how long still, the trials, the best."""
    from gankd.commands.status import sweep_status

    console().print(sweep_status(name, absolute(storage)))


@cli.command()
def methods() -> None:
    """List the methods."""
    from gankd.config import preset_names
    from gankd.registry import find_method, method_names
    from gankd.sweep.table import table_names

    for name in method_names():
        method = find_method(name)
        click.echo(f"{name:16} {method.title}: {method.summary}")
        click.echo(f"{'':16} stages: {' -> '.join(stage.name for stage in method.stages)}")
        click.echo(f"{'':16} presets: {', '.join(preset_names(method.presets))}")
        if tables := table_names(method):
            click.echo(f"{'':16} tables: {', '.join(tables)}")


@cli.command()
@click.argument("method")
@click.option("--preset", default="digits", show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="KNOB=VALUE")
def show(method: str, preset: str, assignments: tuple[str, ...]) -> None:
    """Every knob of a method: value, unit, range, origin."""
    from gankd.commands.show import knob_table
    from gankd.config import parse_overrides

    out = console()
    out.print(knob_table(method, preset, parse_overrides(assignments)))


@cli.command()
@click.argument("model")
@click.option("--out", default="grid.png", show_default=True, type=click.Path(dir_okay=False))
@click.option("--labels", help="Rows: classes by number, or numbers in the data's unit, e.g. --labels=-90,0,90.  [default: all]")
@click.option("--per-class", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1))
def sample(model: str, out: str, labels: str | None, per_class: int, seed: int) -> None:
    """Images from a registered generator, e.g. digits-generator@champion."""
    from gankd.commands.sample import write_samples

    write_samples(model, Path(out), per_class, seed, labels)
    click.echo(f"wrote {out}")


@cli.command()
@click.argument("model")
@click.option("--images", type=int, help="Generated images.  [default: as the sweep that made the generator]")
@click.option(
    "--extractor", help="A further feature extractor for a generator: inception_torchvision, inception_tf_ported, clip."
)
@click.option("--weights", type=click.Path(), help="File with the weights of that extractor.")
@STORAGE
def evaluate(model: str, storage: str, **quality: Any) -> None:
    """Validation and test metrics of a registered student or generator, e.g. digits-student@champion."""
    from gankd.commands.evaluate import evaluate_registered

    found = evaluate_registered(model, absolute(storage), {knob: value for knob, value in quality.items() if value is not None})
    if isinstance(found, dict):
        for name, value in found.items():
            click.echo(f"{name}: {value:.4g}")
    else:
        console().print(found)


@cli.command()
@click.argument("model")
@click.option(
    "--format", "kind", type=click.Choice(["safetensors", "onnx", "torch-export", "hdf5", "folder"]), default="safetensors",
    show_default=True, help="The network; or, as hdf5 or folder, the images of --stage.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(), help="A new folder.")
@click.option("--stage", help="The stage whose images to take, of the trial that made the model, e.g. samples.")
@click.option("--data-licence", default="", help="Licence of the data, for the model card.")
@STORAGE
def export(model: str, kind: str, out: str, stage: str | None, data_licence: str, storage: str) -> None:
    """A registered network, or the images that it learned from, as files for other programs."""
    from gankd.commands.export import export_network
    from gankd.commands.export_images import export_images

    if (kind in ("hdf5", "folder")) != (stage is not None):
        raise UserError("--stage goes with --format hdf5 or folder: images; the others are formats of the network itself")
    if stage is not None:
        click.echo(export_images(model, stage, kind, Path(out), absolute(storage)))
        return
    exported = export_network(model, kind, Path(out), data_licence)
    click.echo(
        f"wrote {', '.join(exported.files)} to {out}; outputs within {exported.difference:.1g} of the registered network's"
    )


@cli.command()
@click.option("--dataset", required=True, help="Data set whose methods to compare: digits, or your own by its title.")
def compare(dataset: str) -> None:
    """Methods side by side on a data set: the best sweep of each."""
    from gankd.commands.compare import comparison

    console().print(comparison(dataset))


@cli.command()
@click.argument("sweeps", nargs=-1, metavar="[SWEEP]...")
@click.option("--dataset", help="All finished sweeps on this data set, and their methods side by side as `compare` shows them.")
@click.option("--out", default="report.html", show_default=True, type=click.Path(dir_okay=False))
@STORAGE
def report(sweeps: tuple[str, ...], dataset: str | None, out: str, storage: str) -> None:
    """Sweeps as one HTML file that needs no network: tables, seeds, cost, curves, pictures, and where all of it comes from."""
    from gankd.commands.report import write_report
    from gankd.paths import absolute_path

    size = write_report(sweeps, dataset, Path(absolute_path(out, "--out")), absolute(storage))
    click.echo(f"wrote {out} ({size / 2**20:.1f} MiB)")


@cli.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option("--host", default="127.0.0.1", show_default=True)
def ui(port: int, host: str) -> None:
    """The MLflow UI on the runs of this folder."""
    from gankd.commands.ui import ui as serve
    from gankd.tracking.tracker import Tracker

    serve(Tracker.default_uri(Path.cwd()), host, port)


@cli.group()
def store() -> None:
    """Look into the artifact store."""


@store.command("ls")
@STORAGE
def store_ls(storage: str) -> None:
    """Artifacts with sizes; `-` marks those that no sweep refers to."""
    import time

    from gankd.store import Store

    entries, lines = Store(absolute(storage)).ls(), []
    for entry in entries:
        mark = " " if entry.referenced else "-"
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
        lines.append(f"{mark} {entry.bytes / 2**20:10.2f} MiB  {made}  {entry.key}")
    lines.append(f"  {sum(entry.bytes for entry in entries) / 2**20:10.2f} MiB in all")
    click.echo("\n".join(lines))  # at once: each call flushes


@store.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@STORAGE
def store_gc(storage: str, dry_run: bool) -> None:
    """Delete what no sweep refers to, and what crashes left behind."""
    from gankd.store import Store

    gone = Store(absolute(storage)).gc(dry_run)
    lines = [f"{entry.kind:10} {entry.key}" for entry in gone]
    lines.append(f"{'would free' if dry_run else 'freed'} {sum(entry.bytes for entry in gone) / 2**20:.2f} MiB")
    click.echo("\n".join(lines))


def console() -> Console:
    """The terminal, or plain text of a fixed width where there is none."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 140)


def _there_is_a_working_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def main() -> None:
    """Entry point: user errors become one sentence on one line and exit code 2."""
    interrupt.install()
    gc.set_threshold(300_000, 20, 20)  # imports make objects that stay: looking through them took a sixth of the time
    try:
        os.getcwd()
        sys.exit(cli(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        said = error.format_message()
    except (click.Abort, KeyboardInterrupt):
        interrupt.end()
    except UserError as error:
        said = str(error)
    except OSError as error:
        if error.filename is None and _there_is_a_working_folder():  # no file of the user's
            raise
        said = f"{error.strerror}: {str(error.filename)!r}" if error.filename else "the working folder is gone; go to another one"
    click.echo(f"error: {' '.join(said.split())}", err=True)
    sys.exit(2)
