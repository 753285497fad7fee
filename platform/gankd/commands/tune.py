"""`gankd tune`: its flags, and how a sweep is begun or gone on with. Nothing heavy is imported before it is asked for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import click
from click.core import ParameterSource

from gankd import interrupt
from gankd.errors import UserError
from gankd.paths import DEFAULT_STORAGE, absolute_path, absolute_storage

if TYPE_CHECKING:
    from rich.console import Console


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


def start_sweep(
    resumed: str | None,
    assignments: tuple[str, ...],
    pretrained: str | None,
    address: str | None,
    allowed: str | None,
    flags: dict[str, Any],
    console: Console,
) -> None:
    """Prepare the sweep that is asked for, or that is to be resumed, and run it. `flags`: those of `SweepRequest`, storage, name.

    Raises UserError for whatever cannot be, before anything has run.
    """
    from gankd.config import parse_overrides
    from gankd.sweep.launch import set_environment
    from gankd.text import seconds_of

    interrupt.advise("nothing had been started")
    if allowed is not None:
        interrupt.allow(seconds_of(allowed))
    if address is not None and not address.strip():
        raise UserError("--address is empty; give auto, host:port, or leave it out for this machine alone")
    set_environment(address)  # before Ray is imported, which these do
    from gankd.sweep.plan import prepare, request_of, resume

    storage, name = absolute_storage(flags.pop("storage")), flags.pop("name")
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
        elsewhere = "" if storage == absolute_storage(DEFAULT_STORAGE) else f" --storage {shlex.quote(storage)}"
        cluster = f" --address {shlex.quote(address)}" if address else ""
        interrupt.advise(f"nothing finished is lost. Go on with: python tune.py --resume {sweep.name}{elsewhere}{cluster}")
        run_experiment(sweep, address, console)


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
