"""What a page is made of. A table (`Grid`) is also what the terminal shows: one structure, two ways to look at it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Grid:
    """A table of texts, and sentences below it.

    Attributes:
        left: places of the columns that hold words; the others hold numbers and stand at the right.
        unbroken: places of the columns that a narrow terminal must not fold.
    """

    kind: ClassVar = "grid"
    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: Collection[int] = (0,)
    notes: tuple[str, ...] = ()
    unbroken: Collection[int] = ()

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(title=escape(self.title), title_justify="left")
        for place, heading in enumerate(self.headings):
            justify: Any = "left" if place in self.left else "right"
            table.add_column(escape(heading), justify=justify, overflow="fold", no_wrap=place in self.unbroken)
        for row in self.rows:
            table.add_row(*map(escape, row))
        return Group(table, *map(Text, self.notes))


@dataclass(frozen=True)
class Values:
    """A row of a drawing: a value for each seed, and the differences to a reference, seed by seed.

    Attributes:
        interval: mean difference, and the ends of its interval; None where there is none.
    """

    name: str
    values: tuple[float, ...]
    differences: tuple[float, ...] = ()
    interval: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Dots:
    """Rows of values as dots with their mean, and beside them the differences with their interval and a line at zero."""

    kind: ClassVar = "dots"
    title: str
    metric: str
    rows: tuple[Values, ...]
    difference: str = ""


@dataclass(frozen=True)
class Line:
    """Points (step, value) in order; lines of one `name` have one colour and one entry in the legend."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curves:
    """Lines over steps on common axes. `names`: of all drawings that are to have the same colours, in order."""

    kind: ClassVar = "curves"
    title: str
    lines: tuple[Line, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture as base64 of PNG."""

    caption: str
    png: str


@dataclass(frozen=True)
class Pictures:
    """Pictures beside each other, and a sentence for what is left out."""

    kind: ClassVar = "pictures"
    title: str
    pictures: tuple[Picture, ...]
    note: str = ""


@dataclass(frozen=True)
class Node:
    """An item of a tree: its text, what is said beside it, whether it is marked as shared, and the items below it."""

    text: str
    beside: str = ""
    shared: bool = False
    below: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Tree:
    """Nested lists, folded away below the first level."""

    kind: ClassVar = "tree"
    title: str
    nodes: tuple[Node, ...]
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    kind: ClassVar = "facts"
    title: str
    facts: tuple[tuple[str, str], ...]


Element = Grid | Dots | Curves | Pictures | Tree | Facts


@dataclass(frozen=True)
class Section:
    """A part of a page: sentences, those that warn apart from the others, and elements."""

    title: str
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    elements: tuple[Element, ...] = field(default=())
