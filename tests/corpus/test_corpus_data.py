"""The corpus as data: how much of it there is, that no vector is there twice, and that each says why."""

from __future__ import annotations

from collections import Counter

import pytest
from corpus_data import CITED, byte_set, files, load, to_bytes

CATEGORIES = {
    "framing conflicts": "conflicts",
    "lengths": "lengths",
    "codings": "codings",
    "chunked grammar": "chunks",
    "trailers": "trailers",
    "white space and line ends": "line-ends",
    "names and values": "names",
    "methods and versions": "request-lines",
    "targets": "targets",
    "authority disagreements": "hosts",
    "sizes": "sizes",
    "pipelining": "pipelining",
    "upgrades": "upgrades",
    "CONNECT and forged destinations": "connect",
    "hop-by-hop tricks": "hop-by-hop",
    "path confusion": "paths",
    "header injection through filters": "filters",
    "spoofed forwarding": "forwarding",
    "request ids and traces": "ids",
    "expectations": "expect",
    "other protocols": "other-protocols",
}

BESIDE = ("ask", "setting", "replies", "end")
"""What makes two vectors of the same bytes."""


def test_there_are_a_thousand_vectors_that_were_written_one_by_one_and_none_is_there_twice():
    everything = [(kind, vector) for kind in ("requests", "responses") for vector in load(kind)]
    counted = Counter((kind, vector.data, *[str(vector.expected.get(key)) for key in BESIDE]) for kind, vector in everything)
    assert [key for key, count in counted.items() if count > 1] == []
    assert sum(not vector.generated for _, vector in everything) >= 1000
    assert len(load("responses")) >= 300


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_of_request_has_its_file(category):
    assert CATEGORIES[category] in files("requests")
    assert set(files("requests")) == set(CATEGORIES.values())
    assert files("responses") == ["bodiless", "fields", "framing", "interim", "poison", "status-lines"]


def test_every_vector_says_why_and_cites_a_rule_or_an_advisory():
    assert [str(vector) for vector in load("requests") + load("responses") if not CITED.search(vector.why)] == []


def test_every_vector_says_what_must_become_of_it():
    for vector in load("requests"):
        statuses = vector.expected.get("status", 200)
        if statuses == 200:
            assert "forward" in vector.expected, vector
    for vector in load("responses"):
        assert ("client" in vector.expected) != ("status" in vector.expected), vector


def test_marks_stand_for_repetition_and_ranges_for_bytes():
    assert to_bytes("a⟨xy*3⟩b\u00ff") == b"axyxyxyb\xff"
    assert byte_set("00-02 7f") == [0, 1, 2, 0x7F]
