"""A page as one HTML file: plain data in, text out. It knows neither sweeps nor stages."""

from gankd.page.elements import Curves, Dots, Element, Facts, Grid, Line, Node, Picture, Pictures, Section, Tree, Values
from gankd.page.render import as_html

__all__ = [
    "Curves",
    "Dots",
    "Element",
    "Facts",
    "Grid",
    "Line",
    "Node",
    "Picture",
    "Pictures",
    "Section",
    "Tree",
    "Values",
    "as_html",
]
