"""A real API server with charts/outrider's admission policy in it, once for each set of defaults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from injection.cases import DEFAULTS
from injection.policy_kit import RESTRICTED, policy, wait_until_in_force
from support.apiserver import ApiServer
from support.kube_admin import Admin
from support.programs import need_program


@pytest.fixture(scope="session")
def cluster() -> Iterator[Admin]:
    """Namespaces `plain` and `other`, each with the policy of those defaults and labelled for injection, and `restricted`."""
    helm = need_program("helm")
    with ApiServer() as server:
        for name in DEFAULTS:
            server.admin.namespace(name, {"outrider.dev/inject": "enabled", "defaults": name})
            for one in policy(helm, name):
                plural = "mutatingadmissionpolicybindings" if one["kind"].endswith("Binding") else "mutatingadmissionpolicies"
                server.admin.request("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", one)
        server.admin.namespace(RESTRICTED, {"pod-security.kubernetes.io/enforce": "restricted"})
        for name in DEFAULTS:
            wait_until_in_force(server.admin, name)
        yield server.admin
