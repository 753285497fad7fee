"""`gankd report`: sweeps, and the methods of a data set side by side, as one HTML file that can be taken away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gankd.commands.compare import side_by_side_of, sweeps_on
from gankd.errors import UserError
from gankd.page import Section, as_html
from gankd.paths import check_place
from gankd.sweep.evidence import PictureBudget
from gankd.sweep.records import sweep_names
from gankd.sweep.report import FOOT, Reported


def write_report(names: Sequence[str], dataset: str | None, out: Path, storage: str) -> int:
    """Write the report of these sweeps, or of all that have finished on a data set with their comparison; its size in bytes.

    Raises UserError for unknown sweeps and data sets, for none at all, and when `out` cannot be written.
    """
    if not names and dataset is None:
        raise UserError(
            "report needs --dataset, or the names of sweeps; `gankd compare` and the folder `sweeps` of the storage list them"
        )
    check_place(out, "--out")
    sections, budget = [], PictureBudget()
    names = list(dict.fromkeys(names))
    if dataset is not None:
        comparison, found = _comparison(dataset, storage)
        sections.append(comparison)
        names = names or found
    reported = [Reported(storage, name) for name in names]
    behind = [each.section(budget) for each in reported]
    if behind and (warning := _other_data(reported)):
        sections.append(Section("What these sweeps read", warnings=(warning,)))
    title = f"{dataset}: methods side by side" if dataset is not None else f"{', '.join(names)}: report"
    page = as_html(title, [*sections, *behind], FOOT).encode()
    try:
        out.write_bytes(page)
    except OSError as error:
        raise UserError(f"--out {str(out)!r} cannot be written ({error.strerror}); choose another file") from error
    return len(page)


def _comparison(dataset: str, storage: str) -> tuple[Section, list[str]]:
    """The tables of `gankd compare`, and the sweeps on the data set whose records lie in the storage, the newest first."""
    finished = sweeps_on(dataset)
    there, names = set(sweep_names(storage)), list(dict.fromkeys(sweep.name for sweep in finished))
    warnings = []
    if away := [name for name in names if name not in there]:
        warnings.append(f"The records of {', '.join(away)} are not in this storage: of them there are these figures alone.")
    grids = side_by_side_of(dataset, finished)
    sentences = () if grids else ("All sweeps that have finished fill tables: no method was searched, so none is compared here.",)
    section = Section(f"Methods on {dataset}", sentences, tuple(warnings), tuple(grids))
    return section, [name for name in names if name in there]


def _other_data(reported: Sequence[Reported]) -> str:
    """A sentence where the sweeps were not made of the same data; empty where they were."""
    by_data = {each.name: each.fingerprints[0][:12] for each in reported if each.fingerprints}
    if len(set(by_data.values())) < 2:
        return ""
    listed = ", ".join(f"{name} {fingerprint}" for name, fingerprint in by_data.items())
    return (
        f"These sweeps were made of different data (fingerprints: {listed}): numbers of one do not compare with those of another."
    )
