"""The documentation says what the code does: tables in step, names and figures complete, the README's example run."""

from __future__ import annotations

import contextlib
import io
import pathlib
import re

import pytest

from experiments.effects import tables
from experiments.effects.config import CONFIG
from simxrd_jax.conditions import CONDITIONS
from simxrd_jax.presets import PRESETS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = CONFIG.page.read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
WRITTEN = re.sub(r"<!-- (\w+): generated.*?<!-- \1: end -->", "", PAGE, flags=re.DOTALL)


def test_tables_are_those_of_the_code():
    assert tables.renew(PAGE) == PAGE, "run python -m experiments.effects size"


def test_a_page_without_places_for_tables_is_an_error():
    with pytest.raises(ValueError, match="no place for the table conditions"):
        tables.renew("nothing")


def test_every_condition_is_explained():
    strains = {f"strain_{i}{j}" for i in "xyz" for j in "xyz"}
    missing = [name for name in CONDITIONS if f"`{name}`" not in WRITTEN and name not in strains]
    assert not missing
    assert "`strain_xx` … `strain_zz`" in WRITTEN


def test_every_preset_is_in_both_documents():
    for name in PRESETS:
        assert f"`{name}`" in PAGE
        assert f"`{name}`" in README


def test_figures_are_all_there_used_and_small():
    used = set(re.findall(r"\(figures/(\w+)\.png\)", PAGE)) | set(re.findall(r"\(docs/figures/(\w+)\.png\)", README))
    files = {path.stem: path.stat().st_size for path in CONFIG.figures.glob("*.png")}
    assert used == set(files)
    assert max(files.values()) <= CONFIG.max_bytes
    assert sum(files.values()) < 2_000_000


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/physics.md",
        "docs/library.md",
        "docs/datasets.md",
        "docs/training.md",
        "datasets/README.md",
        "experiments/effects/README.md",
    ],
)
def test_links_lead_somewhere(page: str):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_readme_example_prints_what_it_says(monkeypatch: pytest.MonkeyPatch):
    found = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", README, flags=re.DOTALL)
    assert found is not None
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "README.md", "exec"), {})
    assert printed.getvalue() == found[2]


def test_library_example_runs(monkeypatch: pytest.MonkeyPatch):
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(compile(found[1], "library.md", "exec"), names)
    assert names["train_step"]({}, names["stream"], names["jax"].random.key(0), 0) is None


def test_training_config_example_is_a_config():
    from simxrd_jax.train.config import TrainConfig

    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    names: dict = {}
    exec(compile(found[1], "training.md", "exec"), names)
    assert isinstance(names["CONFIG"], TrainConfig)


def test_readme_peak_table_is_the_command_s(tmp_path: pathlib.Path):
    from simxrd_jax.commands.simulate import simulate_files

    simulate_files([str(ROOT / "datasets/cifs/quartz.cif")], output=str(tmp_path / "q.xy"), peaks=str(tmp_path / "q.csv"))
    printed = re.search(r"\$ head -4 quartz.csv\n(.*?)\$?\n```", README, flags=re.DOTALL)
    assert printed is not None
    assert (tmp_path / "q.csv").read_text().splitlines()[:4] == printed[1].splitlines()
