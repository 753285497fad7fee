"""Pages as a browser reads them: their elements, and a headless browser for what only that can tell."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1400,2000"),
)


def visit(address: str, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The page as the browser has built it, after its scripts have run; its console is in `stderr`."""
    if not BROWSER:
        pytest.skip("no chromium on this machine: the page cannot be looked at")
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=30000", *flags, "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def dom(address: str, profile: Path) -> str:
    """The page as the browser has built it, after its scripts have run."""
    return visit(address, profile).stdout


# What makes a browser ask somebody else.
REFERRING = ("src", "href", "srcset", "poster", "data", "action", "xlink:href", "background")


class Elements(HTMLParser):
    """The elements of a page with their attributes, its texts, and those of the style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def check_whole(self) -> None:
        """No script, no handler, and nothing that a browser would have to fetch."""
        assert "script" not in self.tags
        assert "link" not in self.tags
        assert not [name for name, _ in self.attributes if name.startswith("on")]
        referred = [value for name, value in self.attributes if name in REFERRING]
        assert not [value for value in referred if not value.startswith(("data:image/png;base64,", "#"))]
        assert "url(" not in "".join(self.texts)
        assert "@import" not in "".join(self.texts)
