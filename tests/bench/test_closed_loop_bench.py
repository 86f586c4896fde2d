import pytest

from recolam import bench
from recolam.errors import ConfigError


@pytest.mark.slow
def test_a_world_with_known_truth_is_fitted_learnt_in_and_judged() -> None:
    options = {"preset": "tiny", "seeds": "1", "iterations": "1", "users": "20", "evaluations": "2"}
    found = bench.run("closed-loop", options)
    (world,) = found["worlds"]
    assert len(world["policies"]) >= 10
    assert all({"true", "fitted", "charged"} == set(row) for row in world["policies"].values())
    assert set(found["share"]) == {"learnt_from_fitted_users", "learnt_cautiously"}
    assert found["share"]["learnt_from_fitted_users"]["mean"] == world["share"]["learnt_from_fitted_users"]["mean"]
    assert set(found["spearman"]) == {"fitted", "charged"}
    assert -1 <= found["spearman"]["fitted"]["mean"] <= 1
    assert 0 <= found["regret_at_1"]["fitted"]["mean"] < 1


def test_a_penalty_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="penalty"):
        bench.run("closed-loop", {"penalty": "much", "preset": "tiny", "seeds": "1"})
