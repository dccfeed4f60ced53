"""The Prometheus text format: what is taken, what is refused, and that hostile text costs linear time."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from daemon.collectors.promtext import PromTextError, parse_prom_text


def parse(text: str, limit: int = 1000) -> dict[str, float]:
    return parse_prom_text(text.encode(), limit)


def test_samples_comments_and_blank_lines() -> None:
    assert parse(
        "# HELP backup_age_seconds Age.\n# TYPE backup_age_seconds gauge\n\nbackup_age_seconds 12.5\n"
        '  jobs{queue="mail", host="a" }\t3 1700000000000\r\n# EOF\n'
    ) == {"backup_age_seconds": 12.5, 'jobs{host="a",queue="mail"}': 3.0}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("a 1", "a", 1.0),
        (":a_b:9 -1.5e3", ":a_b:9", -1500.0),
        ("a +.5", "a", 0.5),
        ("a 1.", "a", 1.0),
        ("a{} 1", "a", 1.0),
        ("a { } 1", "a", 1.0),
        ('a{x="1"}2', 'a{x="1"}', 2.0),
        ('a{x="1",} 2', 'a{x="1"}', 2.0),
        ('a{x=""} 2', 'a{x=""}', 2.0),
        ('a{x="} 5 {,=\\" \\\\"} 2', 'a{x="} 5 {,=\\" \\\\"}', 2.0),
        ('a{x="ä€"} 2', 'a{x="ä€"}', 2.0),
        ("a 1 -5", "a", 1.0),
    ],
)
def test_spellings(line: str, key: str, value: float) -> None:
    assert parse(line + "\n") == {key: value}


@pytest.mark.parametrize("number", ["NaN", "+Inf", "-Inf", "Inf", "nan", "1e999"])
def test_numbers_no_store_could_hold_are_valid_and_left_out(number: str) -> None:
    assert parse(f"a {number}\nb 1\n") == {"b": 1.0}


@pytest.mark.parametrize(
    "line",
    [
        "a", "a ", "1a 1", "a x", "a 0x10", "a 1_000", "a ١", "a 1 2 3", "a 1 1.5", "a{ 1", 'a{x="1" 1',
        'a{x="1"}', "a{x=1} 1", 'a{x="1"y="2"} 1', 'a{x="1",,y="2"} 1', 'a{="1"} 1', 'a{x="1",x="2"} 1',
        'a{x="\\"} 1', 'a{x="1"} 1 # {t="e"} 1', "{} 1", "a-b 1", "a\x00 1", '<html>', "a 1" + "0" * 80,
    ],
)  # fmt: skip
def test_bad_lines_are_refused_by_number_and_never_quoted(line: str) -> None:
    with pytest.raises(PromTextError, match=r"^line 2: ") as caught:
        parse(f"fine 1\n{line}\n")
    assert line.strip() == "a" or line.strip() not in str(caught.value)


def test_repeated_sample_is_refused_however_its_labels_are_ordered() -> None:
    with pytest.raises(PromTextError, match="line 2: a sample occurs twice"):
        parse('a{x="1",y="2"} 1\na{y="2",x="1"} NaN\n')


def test_text_without_its_last_line_end_may_still_be_in_the_writing() -> None:
    with pytest.raises(PromTextError, match="still being written"):
        parse("a 12")
    assert parse("") == {}


def test_binary_is_refused() -> None:
    with pytest.raises(PromTextError, match="not UTF-8 at byte 2"):
        parse_prom_text(b"a \xff\x00\n", 10)


def test_number_of_samples_is_bounded() -> None:
    assert len(parse("a 1\nb 2\n", 2)) == 2
    with pytest.raises(PromTextError, match="line 3: more samples"):
        parse("a 1\nb NaN\nc 3\n", 2)


def test_agrees_with_the_reference_parser() -> None:
    registry = CollectorRegistry()
    Gauge("temperature_celsius", "t", ["room"], registry=registry).labels('k"i\\t\nchen').set(21.5)
    Counter("jobs", "j", registry=registry).inc(3)
    Histogram("wait_seconds", "w", registry=registry).observe(0.2)
    text = generate_latest(registry).decode()
    expected = [
        (sample.name, len(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    ours = parse(text)
    assert [(key.partition("{")[0], key.count('="'), value) for key, value in ours.items()] == expected
    assert ours['temperature_celsius{room="k\\"i\\\\t\\nchen"}'] == 21.5


@pytest.mark.parametrize(
    "line",
    [
        "a{" + "}" * 500_000 + " x",
        'a{x="' + "\\" * 500_000 + "} 1",
        'a{x="' + '\\"' * 250_000,
        "a{" + 'x="1",' * 80_000 + "} 1",
        "a " + "1" * 1_000_000 + "x",
        "a" * 1_000_000,
        " " * 1_000_000 + "a",
        "a" + " " * 1_000_000,
        "a{" + " " * 1_000_000 + "x",
        "a " + "1 " * 500_000,
    ],
)
def test_hostile_lines_are_refused_in_linear_time(line: str) -> None:
    begin = time.process_time()
    with pytest.raises(PromTextError):
        parse(line + "\n")
    assert time.process_time() - begin < 1.0
