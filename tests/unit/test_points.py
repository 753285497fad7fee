"""The points of a sweep: those of Ray's samplers, the same ones for the same command, and what is said about them beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankd.errors import UserError
from gankd.sweep.extent import different_points
from gankd.sweep.plan import Sweep, prepare, request_of
from gankd.sweep.points import BLOCK, draw_points
from gankd.sweep.remarks import remarks

EVERY_KIND = """
    'samples.subsampling': tune.choice([True, False]),
    'samples.filter_quantile': tune.quniform(0.5, 1.0, 0.1),
    'student.lr': tune.loguniform(1e-2, 2e-1),
    'student.momentum': tune.uniform(0.5, 0.9),
    'student.weight_decay': tune.choice(list(__import__('numpy').linspace(1e-4, 1e-3, 3))),
    'student.batch': tune.randint(8, 64),
    'student.fakes': tune.qrandint(100, 1000, 100),
    'density_ratio.lam': tune.qloguniform(0.01, 0.1, 0.01),
"""


def sweep_of(folder: Path, space: str, trials: int, *overrides: tuple[str, object]) -> Sweep:
    file = folder / "space.py"
    file.write_text(f"from ray import tune\nSPACE = {{{space}}}\n")
    flags = {"method": "cgan_kd", "preset": "smoke", "space": str(file), "trials": trials, "overrides": dict(overrides)}
    return prepare(request_of(flags), str(folder))


def points_of(folder: Path, space: str, trials: int, *overrides: tuple[str, object]) -> list[dict[str, object]]:
    return list(draw_points(sweep_of(folder, space, trials, *overrides)).values())


@pytest.mark.parametrize(
    "space",
    [
        EVERY_KIND,
        "'student.lr': tune.uniform(0.1, 1), 'student.fakes': tune.grid_search([10, 20, 30])",
        "'student.lr': tune.uniform(0.1, 1), 'student.momentum': tune.sample_from(lambda _: 0.5)",
    ],
)
def test_a_shorter_sweep_has_the_first_points_of_a_longer_one(tmp_path: Path, space: str) -> None:
    many = points_of(tmp_path, space, BLOCK + 300)
    few = points_of(tmp_path, space, 5)
    assert many[: len(few)] == few
    assert points_of(tmp_path, space, 5) == few
    assert points_of(tmp_path, space, 5, ("seed", 1))[1:] != few[1:]


def test_points_are_values_that_ray_gives_as_plain_numbers(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, EVERY_KIND, 3000)
    first, *drawn = draw_points(sweep).values()
    assert first == sweep.space.preset_point(sweep.tree)
    assert len(drawn) == 2999
    samplers = sweep.space.samplers
    for knob, sampler in samplers.items():
        values = [point[knob] for point in drawn]
        assert {type(value) for value in values} <= {bool, int, float}
        assert all(sampler.is_valid(value) for value in values)
    assert {point["student.fakes"] for point in drawn} == set(range(100, 1001, 100))
    assert {point["student.batch"] for point in drawn} == set(range(8, 64))
    assert {round(10 * point["samples.filter_quantile"]) for point in drawn} == set(range(5, 11))
    below = sum(point["student.lr"] < (1e-2 * 2e-1) ** 0.5 for point in drawn) / len(drawn)
    assert below == pytest.approx(0.5, abs=0.05)  # uniform in the logarithm


@pytest.mark.parametrize(
    ("space", "points"),
    [
        ("'student.lr': tune.choice([0.01, 0.02])", 3),  # and the preset's
        ("'student.lr': tune.choice([0.01, 0.02, 0.02]), 'student.batch': tune.randint(8, 10)", 5),
        ("'student.fakes': tune.qrandint(100, 300, 100)", 3),  # the preset's is one of them
        ("'samples.filter_quantile': tune.quniform(0.5, 1.0, 0.25), 'student.fakes': tune.grid_search([200, 300])", 7),
        ("'student.batch': tune.lograndint(8, 40)", 33),
    ],
)
def test_a_small_space_is_known_beforehand_and_tried_as_a_whole(tmp_path: Path, space: str, points: int) -> None:
    sweep = sweep_of(tmp_path, space, 100_000)
    assert different_points(sweep.space, sweep.tree) == points
    assert len(draw_points(sweep)) == points
    asked = 200_000 if "grid" in space else 100_000
    expected = f"the space holds {points} different points with the preset's, so {points} trials run and not {asked}"
    assert remarks(sweep, this_machine=True) == [expected]


def test_a_space_that_nobody_can_count_ends_too(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "'student.lr': tune.sample_from(lambda _: 0.01)", 100_000)
    assert different_points(sweep.space, sweep.tree) is None
    assert len(draw_points(sweep)) == 2


def test_nothing_is_said_of_a_space_that_is_large_enough(tmp_path: Path) -> None:
    assert remarks(sweep_of(tmp_path, EVERY_KIND, 1000), this_machine=True) == []
    assert remarks(sweep_of(tmp_path, "'student.lr': tune.choice([0.01, 0.02])", 3), this_machine=True) == []


def test_tune_is_handed_the_points_in_their_order(tmp_path: Path) -> None:
    from ray.tune.experiment import Experiment
    from ray.tune.search.search_generator import SearchGenerator

    from gankd.sweep.searcher import Listed

    points = [{"student.lr": value} for value in (0.1, 0.2, 0.3)]
    search = SearchGenerator(Listed(points))
    search.add_configurations([Experiment("some", print, num_samples=3, storage_path=str(tmp_path))])
    assert [search.next_trial().config for _ in points] == points
    assert search.is_finished()


def test_bf16_in_hardware_that_is_not_used_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("flags : fpu avx512_bf16")
    monkeypatch.setattr("gankd.sweep.remarks.CPU", cpu)
    monkeypatch.setattr("gankd.sweep.remarks.NVIDIA", tmp_path / "none")
    monkeypatch.setattr("gankd.sweep.remarks.BF16_PIXELS", 8)  # the digits' size
    space = "'student.lr': tune.uniform(0.1, 1)"
    sweep = sweep_of(tmp_path, space, 2)
    (said,) = remarks(sweep, this_machine=True)
    assert "has bf16 in hardware" in said
    assert "--set biggan.precision=bf16" in said
    assert "--set student.precision=bf16" in said
    assert remarks(sweep, this_machine=False) == []
    chosen = [(knob.removeprefix("--set ").split("=")[0], "bf16") for knob in said.split(" with ")[1].split(" --set ")]
    assert remarks(sweep_of(tmp_path, space, 2, *chosen), this_machine=True) == []
    monkeypatch.setattr("gankd.sweep.remarks.BF16_PIXELS", 32)
    assert remarks(sweep, this_machine=True) == []
    monkeypatch.setattr("gankd.sweep.remarks.BF16_PIXELS", 8)
    cpu.write_text("flags : fpu avx2")
    assert remarks(sweep, this_machine=True) == []


def test_a_grid_that_makes_too_many_trials_is_refused_at_once(tmp_path: Path) -> None:
    grid = "'student.fakes': tune.grid_search(list(range(1, 1001))), 'student.lr': tune.uniform(0.1, 1)"
    with pytest.raises(UserError, match=r"--trials 1,000 for each of the 1,000 points .* are 1,000,000 trials"):
        sweep_of(tmp_path, grid, 1000)
    points = points_of(tmp_path, grid, 2)[1:]  # without the preset's
    assert [point["student.fakes"] for point in points] == [*range(1, 1001), *range(1, 1000)]
    assert len({point["student.lr"] for point in points}) == 1999


def test_functions_of_a_space_draw_the_same_again(tmp_path: Path) -> None:
    space = "'student.lr': tune.sample_from(lambda: __import__('random').uniform(0.1, 1))"
    assert points_of(tmp_path, space, 20) == points_of(tmp_path, space, 20)
