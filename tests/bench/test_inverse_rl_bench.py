"""`recolam bench inverse-rl`: what one line holds."""

import json

import pytest

from recolam import bench
from recolam.errors import DataError


def test_one_line_holds_every_world_and_seed() -> None:
    found = json.loads(json.dumps(bench.run("inverse-rl", {"seeds": "2", "rows": "1500", "policies": "false"})))
    assert found["bench"] == "inverse-rl"
    assert set(found["worlds"]) == {"satisfaction ladder", "choc and kale"}
    for table in found["worlds"].values():
        assert set(table) == {"spearman", "planned", "planned_gain"}
        for figures in table.values():
            low, high = figures["ci95"]
            assert low <= figures["mean"] <= high
            assert figures["least"] == min(figures["per_seed"])
            assert len(figures["per_seed"]) == 2
        assert table["spearman"]["least"] > 0.5
        assert 0.5 < table["planned"]["least"] <= 1.0


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(DataError, match="interval over 1 seed"):
        bench.run("inverse-rl", {"seeds": "1"})
