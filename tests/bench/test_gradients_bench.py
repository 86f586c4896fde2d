import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recolam import bench
from recolam.bench import slate_estimators
from recolam.bench.gradients import _product_of_means, as_html, as_markdown, as_table
from recolam.bench.slate_estimators import ESTIMATORS
from recolam.errors import ConfigError
from recolam.evaluate import report

SIZES = {"items": "30", "slate": "3", "slates": "16384"}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return bench.run("gradients", SIZES)


def test_estimators_are_biased_where_they_say_so_and_nowhere_else(measured: dict[str, Any]) -> None:
    for figures in measured["policies"].values():
        z = {
            name: row["bias_squared"] / row["bias_squared_error"]
            for name, row in figures["estimators"].items()
        }  # fmt: skip
        assert set(z) == set(ESTIMATORS)
        for name, value in z.items():
            if ESTIMATORS[name].is_unbiased:
                assert value < 5, name
        assert z["PL-Rank, conditional, wrong model"] > 20
        assert z["PPO, clip .2, older policy"] > 5
        assert z["top-K correction, uniform logs, cap 10"] > 3


def test_a_planted_bias_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ESTIMATORS["PL-Rank, conditional"]
    broken = replace(honest, estimates=lambda sample: 0.9 * honest.estimates(sample))
    monkeypatch.setitem(slate_estimators.ESTIMATORS, "PL-Rank, conditional", broken)
    row = bench.run("gradients", SIZES)["policies"]["start"]["estimators"]["PL-Rank, conditional"]
    assert row["bias_squared"] > 5 * row["bias_squared_error"]
    assert row["relative_bias"] == pytest.approx(0.1, abs=0.02)


def test_equal_seeds_give_equal_figures_and_one_json_line(measured: dict[str, Any]) -> None:
    again = bench.run("gradients", SIZES)
    for policy, figures in measured["policies"].items():
        for name, row in figures["estimators"].items():
            other = again["policies"][policy]["estimators"][name]
            assert {**row, "microseconds": 0} == {**other, "microseconds": 0}
    assert "\n" not in json.dumps(measured)


def test_tables_name_every_estimator(measured: dict[str, Any]) -> None:
    for text in (as_markdown(measured), as_html(measured)):
        assert all(text.count(name) >= 2 for name in ESTIMATORS)
    assert as_html(measured).count("<tr>") == 2 * (1 + len(ESTIMATORS))


def test_tables_are_written_where_they_are_wanted(tmp_path: Path, measured: dict[str, Any]) -> None:
    small = {**SIZES, "slates": "4096"}
    for suffix, begin in ((".md", "Policy: start"), (".html", "<table><caption>"), (".json", "{")):
        bench.run("gradients", {**small, "out": str(tmp_path / f"table{suffix}")})
        text = (tmp_path / f"table{suffix}").read_text()
        assert text.startswith(begin)
        assert all(text.count(name) >= 2 for name in ESTIMATORS)
    for wrong, message in (("table.svg", "none of .md"), ("nowhere/table.md", "no such folder")):
        with pytest.raises(ConfigError, match=message):
            bench.run("gradients", {**small, "out": str(tmp_path / wrong)})


def test_the_report_s_table_is_of_today_s_estimators(measured: dict[str, Any]) -> None:
    shipped = json.loads((Path(report.__file__).parent / "templates" / "gradient_estimators.json").read_text())
    today = json.loads(as_table(measured))
    assert shipped["head"] == today["head"]
    for old, new in zip(shipped["tables"], today["tables"], strict=True):
        assert old["policy"] == new["policy"]
        assert [row[:2] for row in old["rows"]] == [row[:2] for row in new["rows"]]


def test_the_product_of_means_is_unbiased_and_its_error_honest() -> None:
    generator = torch.Generator().manual_seed(0)
    true_N = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    found = [
        _product_of_means(parts, parts)
        for parts in true_N + torch.randn(2000, 16, 3, generator=generator, dtype=torch.float64)
    ]
    value, error = (torch.tensor(column) for column in zip(*found, strict=True))
    assert abs(float(value.mean()) - 0.14) < 4 * float(value.std()) / 2000**0.5
    # the jackknife is cautious: about twice the variance where the product is 0
    assert 1.0 < float(error.square().mean()) / float(value.var()) < 2.2


def test_sizes_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ConfigError, match="slates of 9"):
        bench.run("gradients", {"items": "8", "slate": "9"})
    with pytest.raises(ConfigError, match="too few"):
        bench.run("gradients", {"slates": "100"})


@pytest.mark.slow
def test_the_best_of_a_thousand_items_has_a_fiftieth_of_the_error() -> None:
    answer = bench.run("gradients", {"slates": "4096"})
    for policy, figures in answer["best"].items():
        assert figures["gain"] > 50
        for name, row in answer["policies"][policy]["estimators"].items():  # sampling bears the quadrature out
            assert not ESTIMATORS[name].is_unbiased or row["bias_squared"] < 5 * row["bias_squared_error"], name
    assert answer["best"]["start"]["gain_without_clicks"] > 50
