"""From sections to one HTML file that needs nothing else: no script, no request, and no text that is not escaped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gankd.page.drawing import draw_curves, draw_dots
from gankd.page.elements import Element, Section


def as_html(title: str, sections: Sequence[Section], foot: str = "") -> str:
    """The page. All texts are escaped by the template engine, and a content security policy forbids it scripts and requests."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"draw_dots": draw_dots, "draw_curves": draw_curves}
    environment.filters["in_runs"] = _in_runs
    text = environment.get_template("page.html.j2").render(title=title, sections=sections, foot=foot)
    return text.encode(errors="replace").decode()  # stray halves of characters, as names of files may hold


def _in_runs(elements: Sequence[Element]) -> list[tuple[str, list[Element]]]:
    """Neighbours of one kind together: curves stand beside each other."""
    return [(kind, list(run)) for kind, run in itertools.groupby(elements, key=lambda element: element.kind)]
