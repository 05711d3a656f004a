"""`simxrd models`: the table and its JSON."""

from __future__ import annotations

import json

from click.testing import CliRunner

from simxrd_jax.cli import cli
from simxrd_jax.models import MODELS

from .test_models import PARAMETERS


def test_json_has_every_model_variant_and_task():
    result = CliRunner().invoke(cli, ["models", "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert all(list(row) == ["name", "variant", "num_classes", "parameters"] for row in rows)
    counts = {(row["name"], row["variant"], row["num_classes"]): row["parameters"] for row in rows}
    assert len(counts) == len(rows) == sum(2 * len(card.variants) for card in MODELS.values())
    for name, numbers in PARAMETERS.items():
        for variant in ("as_published", "corrected"):
            assert tuple(counts[name, variant, classes] for classes in (7, 230)) == numbers


def test_table_has_a_line_for_every_variant():
    lines = CliRunner().invoke(cli, ["models"]).stdout.splitlines()
    assert len(lines) == 1 + sum(len(card.variants) for card in MODELS.values())
    assert "cnn7          CNN7" in lines[13]
    assert lines[13].endswith("as_published   5,877,031    6,144,854")
    assert len({len(line) for line in lines}) == 1
