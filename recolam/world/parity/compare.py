"""The comparison of two implementations of one world: two-sample tests under one family-wise level, and exactly.

Shape legend: see `recolam.world.parity.dynamics`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recolam.world.parity.dynamics import Documents, Sessions
from recolam.world.parity.two_samples import chi_square, holm, kolmogorov_smirnov, welch

Arrays = Mapping[str, NDArray[np.floating] | NDArray[np.integer]]
_SHOWN = 5
_DECIMALS = 4  # one document's time may differ in its last bit between libraries, and then all its mass would count
_CLEAR = 1e-3  # a choice whose two best options lie closer may fall either way by rounding


@dataclass(frozen=True)
class TwoSample:
    """One two-sample test: `p` alone, `adjusted` among all of its family (Holm)."""

    name: str
    test: str
    p: float
    adjusted: float = 1.0


@dataclass(frozen=True)
class Exact:
    """One comparison of `count` pairs: the largest |a - b| / max(1, |b|), and what rounding may account for."""

    name: str
    largest: float
    tolerance: float
    count: int


@dataclass(frozen=True)
class Verdict:
    """All comparisons. `is_same`: every adjusted p-value is above the level and every difference within its tolerance.

    What is no number, such as the largest difference of nothing, is a difference.
    Worlds that are the same are called different by the tests with at most the chance `level`, whatever their number.
    """

    level: float
    tested: tuple[TwoSample, ...]
    exact: tuple[Exact, ...]

    @property
    def differing(self) -> tuple[str, ...]:
        """Names of the comparisons that tell the two apart."""
        told = [found.name for found in self.tested if not found.adjusted > self.level]
        return (*told, *(found.name for found in self.exact if not found.largest <= found.tolerance))

    @property
    def is_same(self) -> bool:
        return not self.differing

    def as_json(self) -> dict[str, Any]:
        return {
            "is_same": self.is_same,
            "differing": list(self.differing),
            "family_wise_level": self.level,
            "tests": len(self.tested),
            "smallest_adjusted_p": min((found.adjusted for found in self.tested), default=None),
            "largest_exact_difference": max((found.largest for found in self.exact), default=None),
            "least_likely": [asdict(found) for found in sorted(self.tested, key=lambda found: found.p)[:_SHOWN]],
            "exact": [asdict(found) for found in self.exact],
        }

    def as_markdown(self) -> str:
        """Both tables: exact differences, and tests in ascending order of p."""
        lines = ["| exactly | numbers | largest difference | tolerance |", "|---|---|---|---|"]
        lines += [
            f"| {found.name} | {found.count} | {found.largest:.2g} | {found.tolerance:.0e} |" for found in self.exact
        ]
        lines += ["", "| in distribution | test | p | adjusted (Holm) |", "|---|---|---|---|"]
        ordered = sorted(self.tested, key=lambda found: found.p)
        lines += [f"| {found.name} | {found.test} | {found.p:.3g} | {found.adjusted:.3g} |" for found in ordered]
        return "\n".join(lines)


def verdict(tested: Sequence[TwoSample], exact: Sequence[Exact], *, level: float = 0.01) -> Verdict:
    """Corrects all tests together and judges."""
    adjusted_P = holm(np.array([found.p for found in tested], dtype=np.float64))
    corrected = tuple(
        TwoSample(found.name, found.test, found.p, float(adjusted))
        for found, adjusted in zip(tested, adjusted_P, strict=True)
    )
    return Verdict(level, corrected, tuple(exact))


def compare_sessions(ours: Sessions, stock: Sessions, *, marks: Sequence[int], where: str) -> list[TwoSample]:
    """Choices, consumed time and interest at each mark, and the reward. Users are independent given the corpus.

    Steps of one user are not, so each test takes one step, or one sum, of each user.

    Args:
        marks: the steps, as given to `simulate`.
        where: what the names of the tests begin with.
    """
    found = []
    for place, mark in enumerate(marks):
        at = f"{where}, step {mark}"
        found.append(TwoSample(f"{at}: choice", "chi-square", chi_square(ours.choice_TU[mark], stock.choice_TU[mark])))
        found.append(_ks(f"{at}: consumed time", ours.time_TU[mark], stock.time_TU[mark]))
        mine_UZ, theirs_UZ = ours.interest_MUZ[place], stock.interest_MUZ[place]
        found += [
            _ks(f"{at}: interest in topic {topic}", mine_UZ[:, topic], theirs_UZ[:, topic])
            for topic in range(mine_UZ.shape[1])
        ]
        norms = (np.linalg.norm(interest_UZ, axis=1) for interest_UZ in (mine_UZ, theirs_UZ))
        found.append(_ks(f"{at}: length of interest", *norms))
    found.append(TwoSample(f"{where}: mean reward", "Welch", welch(ours.reward_U, stock.reward_U)))
    found.append(_ks(f"{where}: reward", ours.reward_U, stock.reward_U))
    return found


def compare_documents(ours: Documents, stock: Documents) -> list[TwoSample]:
    """Topics, quality, length, and each feature of two corpora drawn independently."""
    found = [
        TwoSample("corpus: topic", "chi-square", chi_square(ours.topic_D, stock.topic_D)),
        _ks("corpus: quality", ours.quality_D, stock.quality_D),
        _ks("corpus: length", ours.length_D, stock.length_D),
    ]
    features = zip(ours.feature_DZ.T, stock.feature_DZ.T, strict=True)
    return [*found, *(_ks(f"corpus: feature {topic}", *pair) for topic, pair in enumerate(features))]


def compare_replays(
    ours: Arrays, stock: Arrays, *, noise_TUC: NDArray[np.float32], tolerance: float, where: str
) -> list[Exact]:
    """Every array of two replays of the same draws.

    A user counts up to the first step at which rounding might decide the choice: where the two best of logit + noise
    lie within 1e-3 of each other.

    Args:
        tolerance: largest |a - b| / max(1, |b|) that is taken for rounding.
        where: what the names of the comparisons begin with.

    Raises:
        ValueError: an array is missing on one side, or of another shape.
    """
    if ours.keys() != stock.keys():
        raise ValueError(f"replays hold {sorted(ours)} and {sorted(stock)}")
    score_TUC = np.sort(stock["logit_TUC"] + noise_TUC, axis=2)
    is_clear_TU = np.logical_and.accumulate(score_TUC[:, :, -1] - score_TUC[:, :, -2] > _CLEAR, axis=0)
    found = []
    for name, mine in ours.items():
        theirs = stock[name]
        if mine.shape != theirs.shape:
            raise ValueError(f"{name} is of shape {mine.shape} and {theirs.shape}")
        first, second = mine[is_clear_TU].astype(np.float64), theirs[is_clear_TU].astype(np.float64)
        scaled = np.abs(first - second) / np.maximum(1.0, np.abs(second))
        largest = float(scaled.max()) if scaled.size else np.nan
        found.append(Exact(f"{where}: {name}", largest, tolerance, int(scaled.size)))
    return found


def _ks(name: str, first_N: NDArray[Any], second_M: NDArray[Any]) -> TwoSample:
    rounded = (np.round(values.astype(np.float64), _DECIMALS) for values in (first_N, second_M))
    return TwoSample(name, "Kolmogorov-Smirnov", kolmogorov_smirnov(*rounded))
