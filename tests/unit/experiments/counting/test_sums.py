"""Sums merge: halves add up to the whole, and everything else is a function of them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.counting.sums import Counts, ExperimentSums, merge

keys = st.builds(
    "{}|{}|{}|{}".format, st.integers(1, 3), st.sampled_from("xy"), st.integers(0, 9), st.sampled_from("nsfc")
)
accounts = st.builds(
    "acct|{}|{}".format, st.sampled_from("xy"), st.sampled_from(["acknowledged", "counted", "late"])
)
sums = st.dictionaries(keys | accounts, st.integers(0, 50), max_size=30)


@given(sums, sums, sums)
def test_adding_is_associative_and_commutative_with_zero(a, b, c):
    a, b, c = map(ExperimentSums.parse, (a, b, c))
    assert ((a + b) + c).flat() == (a + (b + c)).flat() == ((c + b) + a).flat()
    assert (a + ExperimentSums()).flat() == a.flat()


@given(sums, st.integers(0, 2**32 - 1).map(Random))
def test_the_digest_is_canonical(found, random):
    shuffled = dict(random.sample(list(found.items()), len(found))) | {"7|x|7|n": 0}
    assert ExperimentSums.parse(shuffled).digest() == ExperimentSums.parse(found).digest()
    assert (
        ExperimentSums.parse(merge([found, {"7|x|7|n": 1}])).digest() != ExperimentSums.parse(found).digest()
    )


@given(sums)
def test_views_partition_the_cells(found):
    parsed = ExperimentSums.parse(found)
    for arm in "xy":
        assert sum(parsed.by_version(arm).values(), Counts()) == parsed.arm(arm)
        assert sum(parsed.by_hour(arm).values(), Counts()) == parsed.arm(arm)
    assert parsed.arm("x").n + parsed.arm("y").n == parsed.units
    assert ExperimentSums.parse(parsed.flat()).flat() == parsed.flat()


@given(sums, st.floats(600, 1e6))
def test_discounting_is_the_hourly_recursion(found, half_life_s):
    parsed, g = ExperimentSums.parse(found), 2.0 ** (-3_600 / half_life_s)
    units = successes = 0.0
    hours = parsed.by_hour("x")
    for hour in range(parsed.last_hour + 1):
        units = g * units + hours.get(hour, Counts()).n
        successes = g * successes + hours.get(hour, Counts()).s
    assert parsed.discounted("x", half_life_s) == pytest.approx((units, successes))


def test_from_version_leaves_out_what_was_before():
    parsed = ExperimentSums.parse({"1|x|5|n": 10, "2|x|5|n": 4, "2|x|6|s": 3, "2|y|6|n": 9})
    assert parsed.arm("x", from_version=2) == Counts(4, 3, 0)
    assert parsed.by_hour("x", from_version=2) == {5: Counts(4), 6: Counts(0, 3)}


def test_broken_accounting_and_impossible_cells_are_found():
    account = {"acct|x|acknowledged": 9, "acct|x|counted": 4, "acct|x|late": 3, "acct|x|late_exposures": 5}
    assert ExperimentSums.parse(account).gaps() == {"x": 2}
    assert ExperimentSums.parse(account | {"acct|x|duplicate": 2}).gaps() == {}
    assert ExperimentSums.parse({"1|x|0|n": 2, "1|x|0|s": 3}).impossible() == [(1, "x", 0)]
    exposed = {"acct|x|exposed": 7, "1|x|0|n": 4, "1|x|0|s": 2, "acct|x|late_exposures": 1}
    assert ExperimentSums.parse(exposed).exposure_gaps() == {"x": 2}
    assert ExperimentSums.parse(exposed | {"acct|x|duplicate_exposures": 2}).exposure_gaps() == {}
    assert ExperimentSums.parse(exposed | {"1|x|0|c": 3}).overcredited() == [(1, "x", 0)]
    assert ExperimentSums.parse(exposed | {"1|x|0|c": 1}).uncredited(before_hour=1) == [(1, "x", 0)]
    assert ExperimentSums.parse(exposed | {"1|x|0|c": 1}).uncredited(before_hour=0) == []


@pytest.mark.parametrize("key", ["1|x|0", "x|1|0|n", "1|x|0|q", "1|x|y|0|n"])
def test_a_foreign_key_is_named(key):
    with pytest.raises(ValueError, match=key.replace("|", r"\|")):
        ExperimentSums.parse({key: 1})
