"""Configs from JSON: what fits comes in, what does not is refused and named."""

import json
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recolam import pipeline, presets
from recolam.contracts.config import from_mapping, to_mapping
from recolam.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int = 3


@dataclass(frozen=True)
class Middle:
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    count: int = 1
    rate: float = 0.1
    is_on: bool = False
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    either: int | str = 0
    methods: tuple[str, ...] = ("full",)
    rates: tuple[float, ...] = ()
    pair: tuple[int, str] = (1, "one")
    weights: dict[str, float] = field(default_factory=dict)
    inners: tuple[Inner, ...] = ()
    middle: Middle = field(default_factory=Middle)


@dataclass(frozen=True)
class Needy:
    user: str
    item: str = "item"


INNER = st.builds(Inner, rate=st.floats(allow_nan=False), steps=st.integers())
OUTER = st.builds(
    Outer,
    name=st.text(),
    count=st.integers(),
    rate=st.floats(allow_nan=False),
    is_on=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    limit=st.none() | st.integers(),
    either=st.integers() | st.text(),
    methods=st.lists(st.text()).map(tuple),
    rates=st.lists(st.floats(allow_nan=False)).map(tuple),
    pair=st.tuples(st.integers(), st.text()),
    weights=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    inners=st.lists(INNER, max_size=3).map(tuple),
    middle=st.builds(Middle, inner=INNER, other=st.none() | INNER),
)


@given(config=OUTER)
def test_round_trip_through_json(config: Outer) -> None:
    back = from_mapping(Outer, json.loads(json.dumps(to_mapping(config))), where="config")
    assert back == config
    assert [type(value) for value in vars(back).values()] == [type(value) for value in vars(config).values()]


def test_nothing_is_needed_but_what_has_no_default() -> None:
    assert from_mapping(Outer, {}, where="config") == Outer()
    assert from_mapping(Needy, {"user": "u"}, where="config") == Needy("u")
    with pytest.raises(ConfigError, match=r"config: 'user' is missing"):
        from_mapping(Needy, {"item": "i"}, where="config")


@dataclass(frozen=True)
class Fussy:
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share is {self.share}, above 1")


@dataclass(frozen=True)
class Holder:
    fussy: Fussy = field(default_factory=Fussy)


def test_what_a_config_refuses_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^file\.fussy: share is 1\.5, above 1$"):
        from_mapping(Holder, {"fussy": {"share": 1.5}}, where="file")


def test_nested_values_replace_only_what_they_name() -> None:
    config = from_mapping(Outer, {"middle": {"inner": {"steps": 9}}}, where="config")
    assert config.middle == Middle(inner=Inner(steps=9))
    assert config.name == "x"


def test_an_int_serves_as_a_float_and_becomes_one() -> None:
    config = from_mapping(Outer, {"rate": 2, "rates": [1, 2.5], "weights": {"a": 3}}, where="config")
    assert (config.rate, config.rates, config.weights) == (2.0, (1.0, 2.5), {"a": 3.0})
    assert {type(value) for value in (config.rate, *config.rates, *config.weights.values())} == {float}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"nmae": "x"}, r"c: unknown key 'nmae'; known keys: count, either, "),
    ({"middle": {"inner": {"rats": 1}}}, r"c\.middle\.inner: unknown key 'rats'; known keys: rate, steps"),
    ({"middle": {"other": {"rats": 1}}}, r"c\.middle\.other: unknown key 'rats'"),
    ({"inners": [{}, {"rats": 1}]}, r"c\.inners.*: unknown key 'rats'"),
    ({"name": 1}, r"c\.name: 1 is not of type str"),
    ({"name": None}, r"c\.name: None"),
    ({"count": "1"}, r"c\.count: '1' is not of type int"),
    ({"count": 1.0}, r"c\.count: 1\.0"),
    ({"count": True}, r"c\.count: True is not of type int"),
    ({"rate": True}, r"c\.rate: True is not of type float"),
    ({"rate": "fast"}, r"c\.rate: 'fast'"),
    ({"is_on": 1}, r"c\.is_on: 1 is not of type bool"),
    ({"is_on": "true"}, r"c\.is_on: 'true'"),
    ({"kind": "c"}, r"c\.kind: 'c' is not one of 'a', 'b'"),
    ({"kind": ["a"]}, r"c\.kind: \['a'\] is not one of"),
    ({"limit": "many"}, r"c\.limit: 'many'"),
    ({"limit": True}, r"c\.limit: True"),
    ({"either": 1.5}, r"c\.either: 1\.5"),
    ({"methods": "full"}, r"c\.methods: 'full'"),
    ({"methods": ["full", 3]}, r"c\.methods.*3 is not of type str"),
    ({"rates": [1.0, None]}, r"c\.rates.*None"),
    ({"pair": [1, 2]}, r"c\.pair.*2 is not of type str"),
    ({"pair": [1]}, r"c\.pair: \[1\] has 1 values, not 2"),
    ({"weights": {"a": "b"}}, r"c\.weights\.a: 'b'"),
    ({"weights": [1]}, r"c\.weights: \[1\]"),
    ({"middle": 3}, r"c\.middle: 3 is not of type Middle"),
    ({"middle": {"inner": None}}, r"c\.middle\.inner: None is not of type Inner"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[json.dumps(values) for values, _ in WRONG])
def test_what_does_not_fit_is_refused_and_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        from_mapping(Outer, values, where="c")
    assert error.value.exit_code == 2


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
ANY_JSON = st.recursive(
    SCALARS, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=3), s, max_size=3)
)


@given(values=st.dictionaries(st.sampled_from([part.name for part in fields(Outer)]), ANY_JSON))
def test_any_json_gives_a_config_of_the_promised_types_or_a_named_error(values: dict[str, Any]) -> None:
    try:
        config = from_mapping(Outer, values, where="c")
    except ConfigError:
        return
    assert type(config.count) is int
    assert type(config.rate) is float
    assert type(config.is_on) is bool
    assert config.kind in ("a", "b")
    assert config.limit is None or type(config.limit) is int
    assert all(type(method) is str for method in config.methods)
    assert type(config.middle.inner) is Inner


@pytest.mark.parametrize("stage", pipeline.STAGES)
@pytest.mark.parametrize("preset", presets.NAMES)
@pytest.mark.parametrize("data", ["demo", "log.csv"])
def test_every_preset_of_every_stage_reads_back(stage: str, preset: str, data: str) -> None:
    config = pipeline.stage_config(pipeline.make_plan(data, preset=preset), stage)
    assert is_dataclass(config)
    assert from_mapping(type(config), json.loads(json.dumps(to_mapping(config))), where=stage) == config
