"""What the admin surface answers (interface.md section 2)."""

from __future__ import annotations

import asyncio
import json
import platform

import pytest
from admin_fakes import Caller, Check, World, active, ask, shop, with_routes

from sidecar import __version__
from sidecar.admin.context import RejectedConfig
from sidecar.config.problem import Problem


def test_config_shows_source_revision_hash_time_and_document() -> None:
    body = ask(World(), lambda caller: caller.get("/config"))
    assert body == {
        "source": "file",
        "revision": "7",
        "hash": "0123abcd",
        "loadedAt": "2023-11-14T22:13:20.500Z",
        "document": {"kind": "SidecarConfig"},
    }


def test_config_is_null_before_the_first_valid_document() -> None:
    world = World()
    world.config = None
    assert set(ask(world, lambda caller: caller.get("/config")).values()) == {None}


def test_problems_are_an_empty_list_when_the_newest_document_is_active() -> None:
    assert ask(World(), lambda caller: caller.get("/config/problems"))["problems"] == []


def test_problems_tell_path_line_column_and_message_of_the_rejected_document() -> None:
    world = World()
    world.rejected = RejectedConfig(source="file", revision="8", rejected_at=1.0, problems=(Problem("routes[0].name", 3, 5, "wrong"),))
    body = ask(world, lambda caller: caller.get("/config/problems"))
    assert body == {
        "source": "file",
        "revision": "8",
        "rejectedAt": "1970-01-01T00:00:01.000Z",
        "problems": [{"path": "routes[0].name", "line": 3, "column": 5, "message": "wrong"}],
    }


def test_readiness_is_all_checks_together() -> None:
    world = World()
    world.checks = [Check(name="config", ok=True), Check(name="draining", ok=False, detail="since 3s")]
    body = ask(world, lambda caller: caller.get("/readiness"))
    assert body["ready"] is False
    assert body["checks"][1] == {"name": "draining", "ok": False, "detail": "since 3s"}


def test_a_check_that_holds_has_no_reason_to_show() -> None:
    assert ask(World(), lambda caller: caller.get("/readiness")) == {
        "ready": True,
        "state": "ready",
        "checks": [{"name": "config", "ok": True, "detail": ""}],
    }


def test_listeners_are_listed_with_the_address_that_was_bound() -> None:
    (listener,) = ask(World(), lambda caller: caller.get("/listeners"))
    assert listener == {
        "name": "inbound",
        "mode": "Reverse",
        "address": "0.0.0.0",
        "port": 15001,
        "protocol": "HTTP/1.1",
        "state": "listening",
        "tls": "",
        "problem": "",
    }


def test_upstreams_show_endpoints_pool_and_budget() -> None:
    (upstream,) = ask(World(), lambda caller: caller.get("/upstreams"))
    assert upstream["endpoints"] == [
        {"address": "127.0.0.1:8000", "state": "healthy", "weight": 1, "inFlight": 3, "requests": 12, "failures": 1}
    ]
    assert upstream["inFlight"] == 3
    assert upstream["pool"]["idle"] == 1
    assert upstream["retryBudget"] == {"available": 10.0}


@pytest.mark.parametrize(
    ("path", "key"),
    [("/version", "outrider"), ("/connections", "inbound"), ("/recent", "failures"), ("/runtime", "pid"), ("/log-level", "level")],
)
def test_the_other_views_answer_json_objects(path: str, key: str) -> None:
    assert key in ask(World(), lambda caller: caller.get(path))


def test_version_names_ours_and_pythons() -> None:
    body = ask(World(), lambda caller: caller.get("/version"))
    assert body["outrider"] == __version__
    assert platform.python_version() in body["python"]


def test_the_log_level_can_be_changed() -> None:
    world = World()

    async def use(caller: Caller) -> object:
        status, body, _ = await caller.send("PUT", "/log-level", data='{"level": "debug"}')
        assert (status, body) == (200, {"level": "debug"})
        return await caller.get("/log-level")

    assert ask(world, use) == {"level": "debug"}


@pytest.mark.parametrize("body", ["", "debug", '{"level": "loud"}', '{"level": 3}', "[]", '{"level": ["info"]}', "\xff"])
def test_a_log_level_that_does_not_exist_is_refused_with_those_that_do(body: str) -> None:
    world = World()
    status, answer, _ = ask(world, lambda caller: caller.send("PUT", "/log-level", data=body.encode("latin-1")))
    assert status == 400
    assert "debug, info, warning, error" in answer["detail"]
    assert world.level == "info"


def test_drain_begins_the_drain_and_says_how_far_it_is() -> None:
    async def use(caller: Caller) -> list[object]:
        return [(await caller.send("POST", "/drain"))[1] for _ in range(2)]

    assert ask(World(), use) == [{"drained": False, "inFlight": 2}, {"drained": True, "inFlight": 0}]


def test_quitquitquit_answers_before_the_process_is_told_to_end() -> None:
    world = World()
    status, body, _ = ask(world, lambda caller: caller.send("POST", "/quitquitquit"))
    assert (status, body, world.quits) == (200, {"state": "stopping"}, 1)


def test_explain_says_which_route_and_knows_the_live_endpoints() -> None:
    query = "/explain?method=GET&url=http://orders.shop.svc/v1/items&header=x-tenant:%20a&header=x-b:1&listener=inbound"
    body = ask(World(), lambda caller: caller.get(query))
    assert body["route"]["name"] == "orders"
    assert body["request"]["headers"] == [["x-tenant", "a"], ["x-b", "1"]]
    assert body["upstreams"][0]["endpoints"] == [{"address": "127.0.0.1:8000", "state": "healthy", "weight": 1, "inFlight": 3}]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "which URL"),
        ("?url=orders", "is not a URL"),
        ("?url=/&listener=nope", "there is inbound, outbound"),
        ("?url=/&header=x", "is not a header"),
        ("?url=/&method=G%20T", "is not a method"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_with_what_to_write(query: str, words: str) -> None:
    status, body, _ = ask(World(), lambda caller: caller.send("GET", "/explain" + query))
    assert status == 400
    assert words in body["detail"]


def test_explain_without_a_document_says_so() -> None:
    world = World()
    world.config = None
    status, body, _ = ask(world, lambda caller: caller.send("GET", "/explain?url=/"))
    assert status == 400
    assert "no valid document" in body["detail"]


def test_metrics_are_the_text_of_the_exposition() -> None:
    assert ask(World(), lambda caller: caller.get("/metrics")) == "# HELP\n"


def test_a_document_of_5000_routes_is_sent_whole_while_other_requests_are_answered() -> None:
    world = World()
    document = {
        "routes": [{"name": f"r{n}", "timeouts": {"request": "0s", "x": ["é", None, 1.5]}} for n in range(5000)],
        "empty": [],
        "none": {},
    }
    world.config = active(shop(), document)

    async def use(caller: Caller) -> None:
        whole, version = await asyncio.gather(caller.get("/config"), caller.get("/version"))
        assert whole["document"] == document
        assert version["outrider"] == __version__

    ask(world, use)


def test_explain_tells_a_bounded_number_of_rules_and_counts_the_rest() -> None:
    world = World()
    world.config = active(with_routes(1000))
    body = ask(world, lambda caller: caller.get("/explain?url=/r/999"))
    assert body["route"]["name"] == "r999"
    assert body["considered"][0]["matched"] is True
    assert (len(body["considered"]), body["consideredTotal"]) == (200, 1000)


def test_answers_are_valid_json_for_every_shape() -> None:
    world = World()
    world.recent = {"a": {"b": {}}, "c": list(range(200)), "d": [[1], [2]] * 70, 'quote"': "x\n"}

    async def use(caller: Caller) -> object:
        async with caller.session.get(caller.base + "/recent") as response:
            return json.loads(await response.read())

    assert ask(world, use) == world.recent
