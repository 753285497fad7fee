"""The commands and their flags. Nothing heavy is imported before a command needs it: `--help` answers at once."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import click
from click.core import ParameterSource

from gankd import __version__, interrupt
from gankd.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_STORAGE = "runs"
STORAGE = click.option(
    "--storage", default=DEFAULT_STORAGE, show_default=True, help="Folder or bucket URI for artifacts, checkpoints and records."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gankd")
def cli() -> None:
    """Move knowledge into and out of GANs: pipelines of stages on Ray and MLflow, no stage trained twice."""


class Tune(click.Command):
    """Its options are the fields of `SweepRequest`, which is imported when they are asked for."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from gankd.sweep.request import SweepRequest

        fields = [_option(name, info) for name, info in SweepRequest.model_fields.items() if info.description]
        return [*fields, *super().get_params(ctx)]


def _option(name: str, info: Any) -> click.Option:
    """A field with its default as an option."""
    flag = f"--{name.replace('_', '-')}"
    choices = [choice for choice in get_args(info.annotation) if isinstance(choice, str)]
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(info.annotation)]
    plain = next((kind for kind in kinds if kind in (int, float, str)), info.annotation)  # of `int | None`
    kind = click.Choice(choices) if choices else plain
    required = info.is_required()
    flags = f"{flag}/--no-{name.replace('_', '-')}" if kind is bool and info.default else flag
    return click.Option(
        [flags],
        type=None if kind is bool else kind,
        is_flag=kind is bool,
        default=None if required else info.default,
        show_default=not required and info.default is not None and kind is not bool,
        help=info.description,
    )


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
    from gankd.config import parse_overrides
    from gankd.paths import absolute_path
    from gankd.sweep.launch import set_environment
    from gankd.text import seconds_of

    interrupt.advise("nothing had been started")
    if allowed is not None:
        interrupt.allow(seconds_of(allowed))
    if address is not None and not address.strip():
        raise UserError("--address is empty; give auto, host:port, or leave it out for this machine alone")
    set_environment(address)  # before Ray is imported, which these do
    from gankd.sweep.plan import prepare, request_of, resume

    storage, name = absolute(flags.pop("storage")), flags.pop("name")
    if resumed is not None:
        _refuse_beside_resume()
        sweep = resume(storage, resumed)
    else:
        if not flags["method"]:
            raise UserError("tune needs --method; `gankd methods` lists them (or --resume NAME)")
        if flags["space"] is not None:
            flags["space"] = absolute_path(flags["space"], "--space")
        if flags["table"] is not None and Path(flags["table"]).suffix:
            flags["table"] = absolute_path(flags["table"], "--table")
        if Path(flags["preset"]).suffix:
            flags["preset"] = absolute_path(flags["preset"], "--preset")
        networks = {} if pretrained is None else _from_pretrained(flags["method"], absolute_path(pretrained, "--pretrained"))
        overrides = networks | parse_overrides(assignments)
        sweep = prepare(request_of({**flags, "overrides": overrides}), storage, name)
    from gankd.sweep.experiment import run_experiment

    with sweep.records.held():
        if resumed is None and sweep.records.exists():
            raise UserError(f"a sweep named {sweep.name!r} exists; choose another --name, or go on with --resume {sweep.name}")
        elsewhere = "" if storage == absolute(DEFAULT_STORAGE) else f" --storage {shlex.quote(storage)}"
        cluster = f" --address {shlex.quote(address)}" if address else ""
        interrupt.advise(f"nothing finished is lost. Go on with: python tune.py --resume {sweep.name}{elsewhere}{cluster}")
        run_experiment(sweep, address, console())


def _refuse_beside_resume() -> None:
    """A resumed sweep goes on as it was asked for: a flag that would change it is not taken in silence."""
    context = click.get_current_context()
    given = [name for name in context.params if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    if others := sorted(set(given) - {"resumed", "storage", "address", "allowed"}):
        flags = ", ".join("--set" if name == "assignments" else f"--{name.replace('_', '-')}" for name in others)
        raise UserError(
            f"--resume goes on with a sweep as it was asked for, without {flags}: leave that out, or start a new sweep"
        )


def _from_pretrained(method: str, file: str) -> dict[str, str]:
    """The knobs by which a method takes the user's networks."""
    from gankd.method import named
    from gankd.registry import find_method

    spec = find_method(method)
    if not spec.pretrained:
        raise UserError(f"method {method!r} starts from no --pretrained networks")
    knobs: dict[str, str] = named(spec.pretrained)(file)
    return knobs


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


def absolute(storage: str) -> str:
    """A folder as an absolute path, because workers run elsewhere; a URI as it is."""
    from gankd.paths import absolute_path

    return storage if "://" in storage else absolute_path(storage, "--storage")


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
    gc.set_threshold(100_000, 20, 20)  # imports make objects that stay: looking through them took a sixth of the time
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
