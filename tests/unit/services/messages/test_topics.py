"""Which partition a key belongs to: Kafka's own function, alike for every topic with as many partitions."""

from hypothesis import given
from hypothesis import strategies as st

from services.messages.events import DECISIONS, ITEMS
from services.messages.topics import (
    KEYED,
    SINGLE,
    TOPICS,
    partition_of,
    topic_configuration,
    topic_partitions,
)

# From Apache Kafka's UtilsTest.testMurmur2, as signed 32-bit integers.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def test_keys_hash_as_in_the_java_client() -> None:
    for partitions in (4, 32, 1_000):
        expected = {key: (value & 0x7FFFFFFF) % partitions for key, value in JAVA.items()}
        assert {key: partition_of(key, partitions) for key in JAVA} == expected


@given(st.binary(max_size=40), st.integers(1, 64))
def test_a_partition_is_one_of_those_there_are(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_keys_spread_over_partitions() -> None:
    counts = [0] * 32
    for number in range(32_000):
        counts[partition_of(f"user-{number}".encode(), 32)] += 1
    # binomial(32000, 1/32): mean 1000, standard deviation 31; five of them on either side
    assert all(845 < count < 1_155 for count in counts)


def test_without_a_key_a_record_goes_to_the_first_partition() -> None:
    assert partition_of(None, 32) == 0


def test_topics_are_keyed_or_a_total_order() -> None:
    assert set(KEYED) | set(SINGLE) == set(TOPICS)
    assert {topic_partitions(topic, 32) for topic in KEYED} == {32}
    assert {topic_partitions(topic, 32) for topic in SINGLE} == {1}


def test_what_is_folded_from_the_first_record_is_kept_forever() -> None:
    kept = {topic for topic in TOPICS if topic_configuration(topic)["retention.ms"] == "-1"}
    assert kept == {DECISIONS, ITEMS}
    assert topic_configuration(ITEMS)["cleanup.policy"] == "compact"
    assert "cleanup.policy" not in topic_configuration(DECISIONS)
    assert {topic_configuration(topic)["message.timestamp.type"] for topic in TOPICS} == {"LogAppendTime"}
