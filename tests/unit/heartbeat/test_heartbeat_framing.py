"""Where messages end, whatever pieces they come in."""

from __future__ import annotations

import time

import pytest

from daemon.heartbeat.framing import MAX_LENGTH, Framer

BEAT = b'{"pid":1,"version":"a\\"}{","cpu":1.5}'
NESTED = b'{"jsonrpc":"2.0","method":"heartbeat","params":{"pid":1,"x":[{}]}}'


def reference(data: bytes, max_length: int) -> tuple[list[bytes], bool]:
    """The same rules, one byte after the other, as slowly and plainly as can be."""
    found: list[bytes] = []
    message = b""
    depth, string, escape = 0, False, False
    for value in data:
        byte = bytes([value])
        if not message:
            if byte in b" \t\r\n":
                continue
            depth = 0 if byte in b"{[" else -1
            string = escape = False
        if byte == b"\n":
            found.append(message)
            message = b""
            continue
        message += byte
        if len(message) > max_length:
            return found, True
        if depth < 0:
            continue
        if string:
            string = escape or byte != b'"'
            escape = not escape and byte == b"\\"
        elif byte == b'"':
            string = True
        elif byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
            if depth == 0:
                found.append(message)
                message = b""
    return found, False


def in_pieces(data: bytes, size: int, max_length: int = MAX_LENGTH) -> tuple[list[bytes], bool]:
    framer = Framer(max_length)
    found = []
    for start in range(0, len(data), size):
        found += framer.feed(data[start : start + size])
    return found, framer.overlong


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (BEAT + b"\n" + BEAT + b"\n", [BEAT, BEAT]),
        (BEAT + BEAT + NESTED + BEAT, [BEAT, BEAT, NESTED, BEAT]),
        (BEAT + b" \r\n\r\n  " + NESTED, [BEAT, NESTED]),
        (b'{"pid":\n1}\n' + BEAT, [b'{"pid":', b"1}", BEAT]),
        (b'{"a":"x\ny"}\n' + BEAT, [b'{"a":"x', b'y"}', BEAT]),
        (b'{"a":"x\\\n' + BEAT, [b'{"a":"x\\', BEAT]),
        (b"\x00\xff{}garbage\n" + BEAT, [b"\x00\xff{}garbage", BEAT]),
        (BEAT + b"rubbish\n" + BEAT, [BEAT, b"rubbish", BEAT]),
        (b'[{"a":1},[2]]' + BEAT, [b'[{"a":1},[2]]', BEAT]),
        (b"}]\n{]" + BEAT, [b"}]", b"{]", BEAT]),
        (b'{"a":"\\\\"}' + BEAT, [b'{"a":"\\\\"}', BEAT]),
        (b'{"a":"\\\\\\""}' + BEAT, [b'{"a":"\\\\\\""}', BEAT]),
        (b"", []),
        (b" \t\r\n\n", []),
    ],
)
def test_messages_end_at_line_ends_and_at_complete_objects(
    data: bytes, messages: list[bytes], size: int
) -> None:
    assert in_pieces(data, size) == (messages, False)
    assert reference(data, MAX_LENGTH) == (messages, False)


@pytest.mark.parametrize("size", [1, 4096, 16385, 100_000])
@pytest.mark.parametrize("filler", [b"x", b'"', b"[", b"{", b'{"a":"' + b"y"])
def test_a_message_of_the_longest_length_passes_and_one_byte_more_does_not(filler: bytes, size: int) -> None:
    longest = (filler + b"z" * MAX_LENGTH)[:MAX_LENGTH]
    assert in_pieces(longest + b"\n" + BEAT, size) == ([longest, BEAT], False)
    assert in_pieces(BEAT + longest + b"z\n" + BEAT, size) == ([BEAT], True)


@pytest.mark.parametrize("size", [1, 5000, 100_000])
def test_an_object_of_the_longest_length_passes_without_a_line_end(size: int) -> None:
    longest = b'{"a":"' + b"z" * (MAX_LENGTH - 8) + b'"}'
    assert in_pieces(longest + BEAT, size) == ([longest, BEAT], False)
    longer = longest.replace(b"z", b"zz", 1)
    assert in_pieces(longer + BEAT, size) == ([], True)


def test_a_long_line_of_short_objects_is_not_overlong() -> None:
    messages, overlong = in_pieces(BEAT * 1000 + b"\n", 65536)
    assert (messages, overlong) == ([BEAT] * 1000, False)


def test_a_backslash_that_waits_for_its_partner_counts() -> None:
    text = b'{"' + b"x" * (MAX_LENGTH - 2) + b"\\"
    assert in_pieces(text, len(text)) == ([], True)
    assert in_pieces(text, 1) == ([], True)


def test_nothing_comes_after_an_overlong_message() -> None:
    framer = Framer()
    assert framer.feed(b"x" * (MAX_LENGTH + 1)) == []
    assert framer.overlong
    assert framer.feed(b"\n" + BEAT + b"\n") == []
    assert framer.lines() is None


def test_take_yields_no_more_than_asked_for() -> None:
    framer = Framer()
    framer.push(BEAT * 5)
    assert framer.take(2) == [BEAT, BEAT]
    assert framer.pending
    framer.push(NESTED)
    assert framer.take(3) == [BEAT] * 3
    assert framer.take(3) == [NESTED]
    assert not framer.pending


def test_unfinished_tells_of_a_beginning_without_an_end() -> None:
    framer = Framer()
    framer.feed(BEAT + b'{"pid"')
    assert framer.unfinished
    framer.feed(b":1}")
    assert not framer.unfinished


def test_lines_offers_whole_lines_and_keeps_the_rest() -> None:
    framer = Framer()
    framer.push(BEAT + b"\n" + NESTED + b"\n" + b'{"pid"')
    assert framer.lines() == BEAT + b"\n" + NESTED + b"\n"
    framer.drop_lines()
    assert framer.lines() is None
    assert framer.take() == []
    framer.push(b":1}\n" + BEAT + b"\n")
    assert framer.lines() == b'{"pid":1}\n'
    framer.drop_lines()
    assert framer.lines() == BEAT + b"\n"
    assert framer.take() == [BEAT]
    assert framer.lines() is None


def test_lines_left_alone_are_cut_one_by_one() -> None:
    framer = Framer()
    framer.feed(b'{"pi')
    framer.push(b'd":1}' + BEAT + b"\nnonsense\n")
    assert framer.lines() == b'{"pid":1}' + BEAT + b"\n"
    assert framer.take() == [b'{"pid":1}', BEAT, b"nonsense"]


def test_drop_lines_drops_nothing_that_was_not_just_offered() -> None:
    framer = Framer()
    framer.push(BEAT + b"\n")
    framer.lines()
    framer.push(NESTED)
    framer.drop_lines()
    assert framer.take() == [BEAT, NESTED]


def test_lines_never_offers_a_line_that_may_be_overlong() -> None:
    framer = Framer()
    framer.push(b"x" * (MAX_LENGTH + 1) + b"\n")
    assert framer.lines() is None
    assert framer.take() == []
    assert framer.overlong


def test_a_finished_framer_holds_no_data() -> None:
    framer = Framer()
    framer.push((BEAT + b"\n") * 400)
    while framer.lines() is not None:
        framer.drop_lines()
    assert framer._data == b""


def seconds(data: bytes, size: int) -> float:
    begun = time.process_time()
    in_pieces(data, size, max_length=1 << 30)
    return time.process_time() - begun


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"' + b"x" * 20_000,
        b"{" * 20_000,
        b'{"' + b"\\\\" * 10_000,
        b"x" * 20_000,
        b'{"a":' + b"1," * 10_000,
    ],
    ids=["string", "nesting", "escapes", "garbage", "numbers"],
)
def test_single_bytes_cost_linear_time(data: bytes) -> None:
    """Twice the bytes may take twice the time, and some noise; a rescan would take four times as long."""
    half = min(seconds(data[:10_000], 1) for _ in range(5))
    whole = min(seconds(data, 1) for _ in range(5))
    assert whole < 3.5 * half


def test_any_cutting_gives_the_same_messages() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = pytest.importorskip("hypothesis.strategies")
    pieces = strategies.lists(
        strategies.one_of(
            strategies.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b" ", b"\r", b"a", b"\xff"]),
            strategies.sampled_from([BEAT, NESTED, BEAT + b"\n", b'{"a":1}']),
        ),
        max_size=30,
    )

    @hypothesis.settings(derandomize=True, deadline=None, max_examples=400)
    @hypothesis.given(pieces=pieces, cuts=strategies.lists(strategies.integers(1, 40), max_size=40),
                      max_length=strategies.sampled_from([8, 40, MAX_LENGTH]))
    def check(pieces: list[bytes], cuts: list[int], max_length: int) -> None:
        data = b"".join(pieces)
        framer = Framer(max_length)
        found: list[bytes] = []
        rest = data
        for cut in [*cuts, len(data) + 1]:
            framer.push(rest[:cut])
            rest = rest[cut:]
            if cut % 3 == 0 and (lines := framer.lines()) is not None:
                framer.drop_lines()
                found += Framer(max_length).feed(lines)
            found += framer.take()
        assert (found, framer.overlong) == reference(data, max_length)

    check()
