"""The real process, a real API server, and what may go wrong between them: traffic runs through all of it, and nothing fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from configmap_kit import NAME, READ, WRITE, Shop, account, document, metric, under_traffic, wait_until
from support import Sidecar
from support.apiserver import WATCH_FROM_ETCD, ApiServer

AWAY = 30.0
"""Seconds."""


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server that may be stopped, and forgets its history when told to."""
    with ApiServer(WATCH_FROM_ETCD) as server:
        server.admin.namespace("shop")
        yield server


def test_an_api_server_that_is_away_for_30_seconds_and_forgets_its_history_costs_no_request(server: ApiServer, tmp_path: Path) -> None:
    shop = Shop(server, "shop", tmp_path, account(server, "shop", [READ, WRITE]))

    def script(sidecar: Sidecar, upstream: int) -> None:
        server.kill()
        gone, asked = time.monotonic(), metric(sidecar, "kube_requests_total")
        assert "cannot be reached" in sidecar.wait_for("config_source_lost")["message"]
        server.compact()
        time.sleep(gone + AWAY - time.monotonic())
        assert metric(sidecar, 'config_source_connected{source="configmap"}') == 0
        assert metric(sidecar, 'kube_watches{resource="configmaps",state="lost"}') == 1
        assert 1 <= metric(sidecar, "kube_requests_total") - asked <= 10
        server.start()
        version = shop.write(document(upstream, 5))
        sidecar.timeout = 60.0
        sidecar.wait_for("config_applied", revision=version)
        wait_until(lambda: metric(sidecar, 'config_source_connected{source="configmap"}') == 1)
        assert metric(sidecar, 'kube_requests_total{resource="configmaps",verb="watch",outcome="expired"}') >= 1
        assert metric(sidecar, 'kube_requests_total{resource="configmaps",verb="list",outcome="ok"}') == 2

    under_traffic(script, shop.write, *shop.alone)


def test_a_new_authority_a_revoked_token_and_a_lost_right_are_told_one_by_one_and_cost_no_request(
    server: ApiServer, tmp_path: Path
) -> None:
    """As in a cluster that is restored from a backup: nothing of what the pod has is accepted any more."""
    admin = server.admin
    admin.service_account("shop", "pod", [READ])
    admin.create("Secret", "shop", "bound")
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(admin.token("shop", "pod", secret="bound"))
    authority.write_bytes(server.ca.read_bytes())
    shop = Shop(server, "shop", tmp_path, {"tokenFile": str(token)}, certificate_authority_data=None, certificate_authority=str(authority))

    def script(sidecar: Sidecar, upstream: int) -> None:
        sidecar.timeout = 60.0

        def told(words: str) -> None:
            wait_until(lambda: any(words in line["message"] for line in sidecar.events("config_source_lost")), 60)

        admin.delete("Secret", "shop", "bound")
        admin.allow("shop", "pod", [])
        server.renew_authority()
        server.kill()
        told("cannot be reached")
        server.start()
        version = shop.write(document(upstream, 5))
        told("no TLS with")
        authority.write_bytes(server.ca.read_bytes())
        told("the token is not accepted")
        token.write_text(admin.token("shop", "pod"))
        told(f"resourceNames: [{NAME}], verbs: [list, watch]")
        admin.allow("shop", "pod", [READ])
        sidecar.wait_for("config_source_back")
        sidecar.wait_for("config_applied", revision=version)

    under_traffic(script, shop.write, *shop.alone)
