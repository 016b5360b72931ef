import json

import pytest

from sidecar.config.node import find, plain
from sidecar.config.parse import MAX_BYTES, parse, parse_json


def places(data):
    return [(problem.path, problem.line, problem.column) for problem in parse(data).problems]


def messages(data):
    return " | ".join(problem.message for problem in parse(data).problems)


def value(text):
    tree = parse(text.encode())
    assert tree.problems == []
    return plain(tree.root)


def test_every_value_knows_its_line_and_column():
    tree = parse(b"a:\n  - b: 1\n    c: [x, y]\n")
    node, exact = find(tree.root, ("a", 0, "c", 1))
    assert (node.line, node.column, node.value, exact) == (3, 12, "y", True)
    parent, exact = find(tree.root, ("a", 0, "zz", 4))
    assert (parent.line, parent.column, exact) == (2, 5, False)


@pytest.mark.parametrize(
    "word",
    ["yes", "no", "on", "off", "Yes", "TRUE", "012", "0x1F", "12:30:45", ".nan", ".inf", "1e999", "1_000", "9" * 30, "2001-01-01", "<<"],
)
def test_words_that_yaml_1_1_would_turn_into_something_else_stay_text(word):
    assert value(f"a: {word}") == {"a": word}


def test_only_true_and_false_are_booleans_and_numbers_are_decimal():
    assert value("[true, false, 10, -3, 1.5, 2e3, null, ~, '5', \"true\"]") == [True, False, 10, -3, 1.5, 2000.0, None, None, "5", "true"]


def test_keys_are_always_text():
    assert value("{on: 1, 5: 2, true: 3, null: 4}") == {"on": 1, "5": 2, "true": 3, "null": 4}


def test_anchors_and_aliases_are_refused_where_they_stand():
    data = b"a: &x [1]\nb: *x\n"
    assert places(data) == [("a", 1, 4), ("b", 2, 4)]
    assert "anchors are not allowed" in messages(data)
    assert "aliases are not allowed" in messages(data)


def test_an_alias_in_place_of_a_key_is_refused_too():
    assert "aliases are not allowed" in messages(b"*a : 1\n")
    assert "aliases are not allowed" in messages(b"[*a : 1]")


def test_a_bomb_of_aliases_costs_nothing_because_nothing_is_expanded():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    tree = parse("\n".join(levels).encode())
    assert len(tree.problems) > 19


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!str", "!x", "!"])
def test_tags_are_refused(tag):
    assert "tags are not allowed" in messages(f"a:\n  - {tag} x\n".encode())
    assert places(f"a:\n  - {tag} x\n".encode()) == [("a[0]", 2, 5)]


def test_duplicate_keys_are_refused_and_the_first_is_named():
    data = b"a: {b: 1, c: 2, b: 3}"
    assert places(data) == [("a.b", 1, 17)]
    assert "the first is on line 1" in messages(data)


def test_a_tab_as_indentation_is_called_by_its_name():
    assert messages(b"a:\n\t- b\n") == "a tab is used for indentation (use spaces)"
    assert places(b"a:\n\t- b\n") == [("a", 2, 1)]


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_is_refused(mark):
    assert "byte order mark" in messages(mark + b"a: 1")


def test_bytes_that_are_not_utf_8_are_shown_with_their_place():
    assert places(b"a: 1\nb: \xff") == [("", 2, 4)]
    assert "0xff is not UTF-8" in messages(b"a: 1\nb: \xff")


@pytest.mark.parametrize("char", ["\0", "\x1b", "\x7f", "\ufffe"])
def test_control_characters_are_refused(char):
    assert "control character" in messages(f"a: 1\nb: {char}".encode())


def test_a_second_document_is_refused_and_the_first_is_still_read():
    tree = parse(b"a: 1\n---\nb: 2\n")
    assert [(problem.line, problem.column) for problem in tree.problems] == [(2, 1)]
    assert plain(tree.root) == {"a": 1}


def test_directives_are_refused():
    assert "directives" in messages(b"%YAML 1.1\n---\na: 1")


@pytest.mark.parametrize("data", [b"[" * 500, b"[" * 500_000, b"- " * 100_000, b"{a: " * 5_000, b'[{"a":' * 400])
def test_deep_nesting_ends_with_one_clear_problem(data):
    assert messages(data).count("nested deeper than 32 levels") == 1


def test_thirty_two_levels_are_not_too_many():
    assert parse(b"[" * 32 + b"]" * 32).problems == []
    assert places(b"[" * 33 + b"]" * 33) == [("[0]" * 32, 1, 33)]


def test_a_mapping_as_key_is_refused():
    assert "a key must be plain text" in messages(b"? [a, b]\n: c\n")
    assert "a key must be plain text" in messages(b"{" * 1000)


def test_a_document_larger_than_a_configmap_is_refused_unread():
    assert "larger than 1048576 bytes" in messages(b"\xff" * (10 * MAX_BYTES))
    assert parse(b"a: " + b"x" * (MAX_BYTES - 3)).problems == []


def test_syntax_errors_have_a_place_and_advice():
    assert places(b"a: [1, 2\nb: 3\n")[0][1] == 2
    assert "look at the quotes" in messages(b"a: b: c")


def test_json_is_read_without_yaml_when_nothing_is_doubtful():
    assert parse_json('{"a": [1, 2.5, null, "\\ud83d\\ude00"]}') == {"a": [1, 2.5, None, "😀"]}


@pytest.mark.parametrize(
    "text",
    ["a: 1", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}', '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}', '{"a": ' * 40 + "1" + "}" * 40,
     "[" * 100_000, '{"a": ' * 50_000, "", "{"],
)  # fmt: skip
def test_doubtful_json_is_left_to_the_reader_that_knows_places(text):
    assert parse_json(text) is None


def test_json_has_the_same_values_in_both_readers():
    document = {"a": [1, -2, 0.5, True, False, None, "x", "true", "012"], "b": {"c d": {}, "e": []}}
    text = json.dumps(document, indent=1)
    assert parse_json(text) == document
    assert value(text) == document
