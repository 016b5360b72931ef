"""What an API server sends: lists, lines of a watch, refusals. Whatever else comes is a BadAnswer."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.kube import answers
from sidecar.kube.api import ApiError, BadAnswer, KubeError
from sidecar.kube.text import one_line

EVENT = {"type": "ADDED", "object": {"metadata": {"name": "a", "resourceVersion": "7"}}}
STATUS = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (9)"}


def line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


@given(st.lists(st.integers(1, 40), min_size=1))
def test_a_line_may_come_in_any_pieces(sizes: list[int]) -> None:
    text = line(EVENT) + b"\n" + line({"type": "BOOKMARK", "object": {}}) + line(EVENT)
    lines, seen = answers.Lines(), []
    while text:
        size = sizes[len(text) % len(sizes)]
        seen += [event.type for event in lines.feed(text[:size])]
        text = text[size:]
    lines.end()

    assert seen == ["ADDED", "BOOKMARK", "ADDED"]


def test_an_end_within_a_line_is_noticed() -> None:
    lines = answers.Lines()
    list(lines.feed(line(EVENT)[:-9]))

    with pytest.raises(BadAnswer, match="in the middle of an event"):
        lines.end()


@pytest.mark.parametrize("complete", [True, False])
def test_an_endless_line_is_given_up(monkeypatch: pytest.MonkeyPatch, complete: bool) -> None:
    monkeypatch.setattr(answers, "MAX_LINE", 1000)
    text = line({"type": "ADDED", "object": {"data": "x" * 1000}})

    with pytest.raises(BadAnswer, match="larger than 1000 bytes"):
        list(answers.Lines().feed(text if complete else text[:-1]))


def test_a_line_of_the_largest_object_there_can_be_is_accepted() -> None:
    stored = "<" * (3 * 512 * 1024)  # etcd's limit
    text = json.dumps({"type": "ADDED", "object": {"data": {"a": stored}}}).replace("<", "\\u003c").encode() + b"\n"

    assert [event.object["data"]["a"] == stored for event in answers.Lines().feed(text)] == [True]


@pytest.mark.parametrize(
    "bad",
    [b"{\n", b"null\n", b"[]\n", b"\xff\n", line({"type": "ADDED"}), line({"object": {}}), line({"type": "ADDED", "object": 7}), b"[" * 9999 + b"\n"],
)  # fmt: skip
def test_a_line_of_another_shape_is_a_bad_answer(bad: bytes) -> None:
    with pytest.raises(BadAnswer):
        list(answers.Lines().feed(bad))


def test_an_error_event_is_a_refusal_with_its_code() -> None:
    with pytest.raises(ApiError, match="410 Expired: too old resource version") as refused:
        list(answers.Lines().feed(line({"type": "ERROR", "object": STATUS})))

    assert (refused.value.status, refused.value.reason, refused.value.retry_after) == (410, "Expired", None)


@pytest.mark.parametrize("body", [{}, {"code": "x", "reason": 7, "message": []}, {"details": 1}])
def test_an_error_event_without_a_code_is_a_500(body: dict[str, object]) -> None:
    with pytest.raises(ApiError) as refused:
        answers.event(line({"type": "ERROR", "object": body}))

    assert refused.value.status == 500


@pytest.mark.parametrize(
    ("header", "details", "seconds"),
    [
        ("7", {}, 7.0),
        (" 0 ", {}, 0.0),
        (None, {"retryAfterSeconds": 3}, 3.0),
        ("9", {"retryAfterSeconds": 3}, 9.0),
        ("-1", {}, None),
        ("soon", {}, None),
        ("9" * 5000, {}, 999999999.0),
        (None, {"retryAfterSeconds": -1}, None),
        (None, {"retryAfterSeconds": True}, None),
        (None, {}, None),
    ],
)
def test_how_long_to_wait_is_read_from_the_header_or_else_the_status(header: str | None, details: object, seconds: float | None) -> None:
    error = answers.refused(429, json.dumps({"reason": "TooManyRequests", "details": details}).encode(), header)

    assert isinstance(error, ApiError)
    assert error.retry_after == seconds


def test_a_refusal_that_is_no_status_keeps_its_words_in_one_printable_line() -> None:
    error = answers.refused(503, b"<html>\r\n\x1b[31mno upstream\x00</html>" + b"x" * 9999, None)

    assert str(error).startswith("the API server says 503: <html> [31mno upstream </html>xxx")
    assert len(str(error)) < 500


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirection_is_not_followed(status: int) -> None:
    error = answers.refused(status, b"", None)

    assert isinstance(error, BadAnswer)
    assert f"status {status}" in str(error)


def test_a_list_has_its_version_and_items() -> None:
    assert answers.object_list({"metadata": {"resourceVersion": "5"}, "items": [{"a": 1}]}) == ("5", [{"a": 1}])
    assert answers.object_list({"metadata": {"resourceVersion": "5"}, "items": None}) == ("5", [])


@pytest.mark.parametrize(
    "bad", [{}, {"items": []}, {"metadata": 7}, {"metadata": {"resourceVersion": 5}}, {"metadata": {"resourceVersion": "5"}, "items": [1]}]
)
def test_a_list_of_another_shape_is_a_bad_answer(bad: dict[str, object]) -> None:
    with pytest.raises(BadAnswer):
        answers.object_list(bad)


@given(st.binary())
def test_whatever_comes_is_an_answer_or_a_kube_error(data: bytes) -> None:
    lines = answers.Lines()
    try:
        list(lines.feed(data))
        lines.end()
    except KubeError:
        pass
    assert isinstance(answers.refused(500, data, None), KubeError)
    with contextlib.suppress(KubeError):
        answers.object_list(answers.decode(data))


def test_foreign_text_is_cut() -> None:
    assert one_line("a\nb\t\x07c") == "a b c"
    assert one_line("x" * 500) == "x" * 400 + "..."
