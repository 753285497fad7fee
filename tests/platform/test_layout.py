"""Rules of the source tree that nothing else would notice."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "platform" / "gankd").rglob("*.py"), *(ROOT / "methods").rglob("*.py")]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


def test_platform_folder_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert python("-c", "import platform; print(platform.system())").stdout.strip()


def test_nothing_is_unpickled() -> None:
    for file in SOURCES:
        for call in re.findall(r"torch\.load\([^)]*\)", file.read_text()):
            assert "weights_only=True" in call, f"{file}: {call}"


@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["methods"]])
def test_help_answers_without_heavy_imports(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['gankd', *{arguments}]\nfrom gankd.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "print([m for m in ('torch', 'ray', 'mlflow') if m in sys.modules])"
    assert python("-c", code).stdout.splitlines()[-1] == "[]"
