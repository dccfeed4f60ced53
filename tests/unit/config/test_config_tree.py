"""YAML text to nodes: positions, types, and the bounds on hostile text."""

from __future__ import annotations

import time

import pytest
import yaml

from daemon.config import tree
from daemon.config.tree import MAX_DEPTH, MAX_NODES, Mapping, Scalar, Sequence, YamlError, parse


def _tags(text):
    root = parse(text)
    assert isinstance(root, Sequence)
    return [item.tag for item in root.items]


def test_scalars_keep_their_text_and_tell_what_yaml_1_1_makes_of_it():
    tags = _tags("[on, 'on', 022, 1:30, 1.10, 2026-11-20, ~, plain, \"7\", 1e3, =, !!str 7, ! 7]")
    assert tags == [
        "bool",
        "str",
        "int",
        "int",
        "float",
        "timestamp",
        "null",
        "str",
        "str",
        "str",
        "value",
        "str",
        "str",
    ]


def test_positions_count_lines_and_characters_from_one():
    root = parse("ä: ö\nb:\n  - x\n")
    assert isinstance(root, Mapping)
    assert [value.position for _, value in root.entries] == [(1, 4), (3, 3)]


def test_merge_keys_add_what_is_not_written_and_the_first_source_wins():
    root = parse("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 5}\n")
    assert isinstance(root, Mapping)
    merged = root.entries[2][1]
    assert isinstance(merged, Mapping)
    assert [(k.text, v.text) for k, v in merged.entries] == [("x", "5")]
    assert [(k.text, v.text) for k, v in merged.merged] == [("y", "2"), ("z", "4")]


def test_an_empty_text_has_no_tree():
    assert parse("") is None
    assert parse("# nothing\n") is None


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("a: [", (2, 1), "flow"),
        ("a: b: c", (1, 5), "mapping values"),
        ("a:\n\t- b", (2, 1), "never of tabs"),
        ("a: *x", (1, 4), "refers to nothing"),
        ("&a [*a]", (1, 5), "stands inside what it refers to"),
        (
            "a: !!python/object/apply:os.system [id]",
            (1, 4),
            "the tag !!python/object/apply:os.system is refused",
        ),
        ("a: !custom x", (1, 4), "the tag !custom is refused"),
        ("a: !!set {x}", (1, 4), "refused"),
        ("a: !!int 7", (1, 4), "refused"),
        ("a: 1\n---\nb: 2", (2, 1), "one document"),
        ("x\na: \x07", (2, 4), "U+0007"),
        ("a: \0", (1, 4), "U+0000"),
        ("%YAML 3.0\n---\na", (1, 1), "incompatible"),
        ("a: {<<: 7}", (1, 9), "needs a mapping"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_where_it_stands(text, position, message):
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert message in caught.value.message
    if message != "flow":  # the two parsers of PyYAML place the end of the text differently
        assert caught.value.position == position


def test_the_python_parser_accepts_and_refuses_the_same(monkeypatch):
    monkeypatch.setattr(tree, "_LOADER", yaml.SafeLoader)
    assert isinstance(parse("a: [1, *x]".replace("*x", "2")), Mapping)
    for text in ("a: [", "a: *x", "a: !!python/object:x y", "[" * 5000, "a: \x07", "a: b: c"):
        with pytest.raises(YamlError):
            parse(text)


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000, "&a [" * 100_000])
def test_deep_nesting_is_refused_before_it_costs_anything(text):
    begun = time.process_time()
    with pytest.raises(YamlError, match=f"deeper than {MAX_DEPTH}"):
        parse(text)
    assert time.process_time() - begun < 2


def test_aliases_that_multiply_are_refused():
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(YamlError, match="aliases expanded"):
        parse(bomb)


def test_aliases_that_only_nest_are_bounded_too():
    text = "- &l0 [x]\n" + "".join(f"- &l{n + 1} [*l{n}]\n" for n in range(MAX_DEPTH))
    with pytest.raises(YamlError, match="deeper"):
        parse(text)


def test_too_many_values_are_refused():
    with pytest.raises(YamlError, match=f"more than {MAX_NODES}"):
        parse("[" + "a," * (MAX_NODES + 1) + "]")


def test_an_anchor_may_be_defined_anew_and_the_later_one_counts():
    root = parse("[&a 1, &a 2, *a]")
    assert isinstance(root, Sequence)
    assert [item.text for item in root.items if isinstance(item, Scalar)] == ["1", "2", "2"]
