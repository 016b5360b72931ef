"""The process's own log lines."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from pathlib import Path

import pytest

from sidecar.errors import UsageError
from sidecar.observe import logs
from sidecar.observe.logs import Event, LineHandler, event


@contextlib.contextmanager
def logging_to(path, level="info", log_format="json"):
    root = logging.getLogger()
    before = (root.level, logs.logger.level)
    with path.open("w") as stream:
        output = logs.setup(level, log_format, stream)
        try:
            yield output
        finally:
            for handler in [handler for handler in root.handlers if isinstance(handler, LineHandler)]:
                root.removeHandler(handler)
                handler.close()
            root.setLevel(before[0])
            logs.logger.setLevel(before[1])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def test_an_event_is_one_json_object_with_time_level_event_message_and_its_fields(path):
    with logging_to(path):
        event(Event.READY, "listening", listeners={"inbound": "0.0.0.0:15001"}, revision="r1")
        event("config_rejected", "bad", level=logging.ERROR)
    first, second = map(json.loads, path.read_text().splitlines())
    assert list(first) == ["time", "level", "event", "message", "listeners", "revision"]
    assert (first["level"], first["event"], first["listeners"]) == ("info", "ready", {"inbound": "0.0.0.0:15001"})
    assert first["time"][10] == "T"
    assert first["time"].endswith("Z")
    assert len(first["time"]) == len("2026-01-31T12:34:56.789Z")
    assert (second["level"], second["event"]) == ("error", "config_rejected")


def test_an_event_outside_the_closed_list_is_refused():
    with pytest.raises(ValueError, match="made_up"):
        event("made_up", "no")


def test_the_events_of_the_interface_are_in_the_list():
    named = "starting ready config_applied config_rejected config_source_lost config_source_back endpoint_ejected endpoint_restored draining drained stopped"
    assert set(named.split()) <= {one.value for one in Event}


HOSTILE = 'x\n{"event":"ready"}\r\u2028\u0085\x1b[2J\x7f\udcff"\\'


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_message_field_or_exception_can_forge_a_line(path, log_format):
    with logging_to(path, log_format=log_format):
        event(Event.CONFIG_REJECTED, HOSTILE, detail=HOSTILE, nested=[HOSTILE])
    text = path.read_bytes().decode()
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()
    if log_format == "json":
        line = json.loads(text)
        assert (line["message"], line["detail"], line["nested"]) == (HOSTILE, HOSTILE, [HOSTILE])


def test_fields_cannot_take_the_place_of_the_fixed_ones(path):
    with logging_to(path):
        event(Event.READY, "real", time="never", event="forged")
    line = json.loads(path.read_text())
    assert (line["event"], line["message"]) == ("ready", "real")
    assert line["time"] != "never"


@pytest.mark.expects_traceback("broken")
def test_a_traceback_stays_inside_its_line(path):
    with logging_to(path):
        logs.logger.error("broken", exc_info=RuntimeError(HOSTILE), extra={"event": "task_failed"})
    line = json.loads(path.read_text())
    assert line["event"] == "task_failed"
    assert "RuntimeError" in line["exception"]


@pytest.mark.expects_traceback("broken thing")
def test_on_a_terminal_a_traceback_follows_indented(path):
    with logging_to(path, log_format="console"):
        logs.logger.error("broken %s", "thing", exc_info=RuntimeError("why"))
    first, *rest = path.read_text().splitlines()
    assert first[12:] == " error   log: broken thing"
    assert rest[-1] == "    RuntimeError: why"


def test_values_that_json_does_not_know_are_shown_as_text(path):
    with logging_to(path):
        event(Event.READY, "odd", where=io)
    assert "module" in json.loads(path.read_text())["where"]


def test_the_level_can_be_changed_while_running(path):
    with logging_to(path, level="warning"):
        event(Event.READY, "unheard")
        logs.set_level("debug")
        assert logs.get_level() == "debug"
        event(Event.READY, "heard", level=logging.DEBUG)
        with pytest.raises(ValueError, match="loud"):
            logs.set_level("loud")
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["heard"]


def test_libraries_are_heard_from_warnings_on_and_named(path):
    with logging_to(path, level="debug"):
        logging.getLogger("asyncio").debug("chatter")
        logging.getLogger("asyncio").warning("slow %s", "callback")
    line = json.loads(path.read_text())
    assert (line["logger"], line["event"], line["message"]) == ("asyncio", "log", "slow callback")


def test_a_second_setup_takes_the_place_of_the_first(tmp_path):
    with logging_to(tmp_path / "a"), logging_to(tmp_path / "b"):
        event(Event.READY, "once")
    assert (tmp_path / "a").read_text() == ""
    assert len((tmp_path / "b").read_text().splitlines()) == 1


@pytest.mark.parametrize(("level", "log_format", "named"), [("loud", "json", "--log-level"), ("info", "xml", "--log-format")])
def test_unknown_settings_are_usage_errors_that_name_the_flag(level, log_format, named):
    with pytest.raises(UsageError, match=named):
        logs.setup(level, log_format)


def test_a_stream_without_a_descriptor_is_a_usage_error():
    with pytest.raises(UsageError, match="cannot write the log"):
        logs.setup(stream=io.StringIO())


def test_a_record_with_wrong_arguments_breaks_nothing(path, capsys):
    with logging_to(path) as output:
        LineHandler(output, console=False).emit(logging.makeLogRecord({"msg": "%d", "args": ("not a number",)}))
        event(Event.READY, "still here")
    assert json.loads(path.read_text())["message"] == "still here"
    assert "not a number" in capsys.readouterr().err


def test_what_comes_in_extra_is_a_field_too(path):
    with logging_to(path):
        logs.logger.info("hello", extra={"event": "internal_error", "request_id": "r-1"})
    line = json.loads(path.read_text())
    assert list(line) == ["time", "level", "event", "message", "request_id"]
    assert (line["event"], line["request_id"]) == ("internal_error", "r-1")


def test_every_event_that_the_source_names_is_in_the_closed_list():
    sources = Path(logs.__file__).parents[1].rglob("*.py")
    named = {name for source in sources for name in re.findall(r'"event": "(\w+)"', source.read_text())}
    assert "task_failed" in named
    assert named <= {one.value for one in Event}


def test_auto_means_console_on_a_terminal_and_json_elsewhere(path):
    with path.open("w") as stream:
        assert not logs.is_console("auto", stream)
        assert logs.is_console("console", stream)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert logs.is_console("auto", Terminal())
    assert not logs.is_console("json", Terminal())
