"""Several observers behind one, and observers that fail."""

from __future__ import annotations

import logging

import pytest
from observe_samples import attempt, exchange, run, snapshot

from sidecar.model.reason import Rejection
from sidecar.observe.base import SilentObserver
from sidecar.observe.fanout import Fanout
from sidecar.observe.observer import Observer


class Witness(SilentObserver):
    """Remembers the names of what it was told."""

    def __init__(self):
        self.seen = []

    def exchange_started(self, exchange):
        self.seen.append("exchange_started")

    def attempt_finished(self, exchange, attempt):
        self.seen.append("attempt_finished")

    def exchange_finished(self, exchange):
        self.seen.append("exchange_finished")

    def message_rejected(self, listener, kind):
        self.seen.append("message_rejected")

    def connection_opened(self, listener):
        self.seen.append("connection_opened")

    def connection_closed(self, listener):
        self.seen.append("connection_closed")

    def handshake_finished(self, listener, result):
        self.seen.append("handshake_finished")

    def tunnel_started(self, exchange):
        self.seen.append("tunnel_started")

    def config_applied(self, snapshot):
        self.seen.append("config_applied")

    def upstream_connected(self, upstream, result, seconds):
        self.seen.append("upstream_connected")


class Broken(SilentObserver):
    def exchange_finished(self, exchange):
        raise ZeroDivisionError

    def connection_opened(self, listener):
        raise KeyError(listener)


def everything(observer: Observer):
    made = exchange(attempt())
    observer.connection_opened("inbound")
    run(observer, made)
    observer.tunnel_started(made)
    observer.message_rejected("inbound", Rejection.BARE_LF)
    observer.connection_closed("inbound")
    observer.config_applied(snapshot())
    observer.upstream_connected("orders", "success", 0.1)


EVERYTHING = [
    "connection_opened",
    "exchange_started",
    "attempt_finished",
    "exchange_finished",
    "tunnel_started",
    "message_rejected",
    "connection_closed",
    "config_applied",
    "upstream_connected",
]


def test_every_observer_hears_everything_in_order():
    first, second = Witness(), Witness()
    everything(Fanout([first, second]))
    assert first.seen == second.seen == EVERYTHING


@pytest.mark.expects_traceback("Broken\\.")
def test_an_observer_that_raises_harms_neither_the_request_nor_the_other_observers():
    witness = Witness()
    fanout = Fanout([Broken(), witness])
    everything(fanout)
    assert witness.seen == EVERYTHING
    assert fanout.failures == {"Broken": 2, "Witness": 0}


@pytest.mark.expects_traceback("Broken\\.")
def test_a_failure_is_logged_once_per_kind_and_counted_each_time(caplog):
    fanout = Fanout([Broken()])
    with caplog.at_level(logging.ERROR, logger="outrider"):
        for _ in range(5):
            everything(fanout)
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["Broken.connection_opened", "Broken.exchange_finished"]
    assert {record.event for record in caplog.records} == {"observer_failed"}
    assert fanout.failures["Broken"] == 10


def test_calls_that_an_observer_does_not_care_about_cost_nothing():
    assert Fanout([Broken()])._exchange_started == ()


def test_without_observers_nothing_happens():
    fanout = Fanout([])
    everything(fanout)
    assert fanout.failures == {}
