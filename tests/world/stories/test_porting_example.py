"""The example of "Porting a RecSim NG story", run as it stands in README.md."""

from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[3] / "README.md"


def test_the_example_runs_and_finds_the_planted_drift() -> None:
    """9,500 moves of 0.5 drift with noise 0.1: a standard error of 0.002."""
    section = README.read_text().split("## Porting a RecSim NG story\n")[1]
    example = section.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(example, "example", "exec"), names)  # noqa: S102
    assert names["drift"].item() == pytest.approx(0.3, abs=0.008)
