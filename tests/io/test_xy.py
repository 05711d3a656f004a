"""Writers: what is written reads back, and nothing is left behind when writing fails."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from simxrd_jax.errors import InputError
from simxrd_jax.io import xy


def test_pattern_reads_back(tmp_path: pathlib.Path):
    grid = 10 + 0.02 * np.arange(50)
    values = np.random.default_rng(0).normal(size=50) * 1e5
    path = tmp_path / "out.xy"
    xy.write_together({path: xy.pattern_text(grid, values, ["made by a test", "second line"], 0.02)})
    read = np.loadtxt(path)
    np.testing.assert_allclose(read[:, 0], grid, rtol=0, atol=1e-9)
    np.testing.assert_allclose(read[:, 1], values, rtol=1e-8)
    assert path.read_text().startswith("# made by a test\n# second line\n")


@pytest.mark.parametrize(("start", "step", "digits"), [(10.0, 0.02, 4), (2.0, 0.00125, 5), (1 / 3, 0.01, 9)])
def test_decimals_hold_the_grid(start: float, step: float, digits: int):
    assert xy.decimals(start, step) == digits


def test_a_failed_write_changes_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")
    real = xy._write_beside
    calls = []

    def fail_on_second(final: pathlib.Path, data: bytes) -> pathlib.Path:
        calls.append(final)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(final, data)

    monkeypatch.setattr(xy, "_write_beside", fail_on_second)
    with pytest.raises(InputError, match=r"second: cannot be written \(No space left on device\)"):
        xy.write_together({first: "new", second: "new"})
    assert first.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["first"]


def test_links_and_permissions_survive(tmp_path: pathlib.Path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    xy.write_together({link: "new"})
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_stream_is_written_to_directly():
    xy.write_together({pathlib.Path(os.devnull): "text"})
    assert not pathlib.Path(os.devnull).is_file()


def test_targets_are_checked(tmp_path: pathlib.Path):
    source = tmp_path / "in.cif"
    source.write_text("data_x")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out.xy", "does not exist"),
        (source, "is also an input"),
        ("", "is empty"),
        (source / "x", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            xy.check_target(path, [source])
    assert xy.check_target(tmp_path / "out.xy", [source]) == tmp_path / "out.xy"


def test_mixture_peaks_name_their_phase():
    one = xy.PeakTable('a "b"', np.array([[1, 0, -2]]), np.array([6]), *(np.array([1.5]) for _ in range(4)))
    assert xy.peaks_text([one]).splitlines() == [",".join(xy.PEAK_COLUMNS), "1,0,-2,6,1.500000,1.50000,1.5,1.5"]
    assert xy.peaks_text([one, one]).splitlines()[1].endswith(',"a ""b"""')
