"""Alerts about injection: pods that come up without the sidecar that they should have. A file of their own: without the webhook they mean nothing."""

from __future__ import annotations

from typing import Final

from charts.source.promql import grown, total
from charts.source.rules import FIVE, Alert

WINDOW: Final = "15m"
_PASSED: Final = 'apiserver_admission_webhook_fail_open_count{name=~".+[.]inject[.]outrider[.]dev"}'
"""What the API server counts when `failurePolicy: Ignore` lets a pod pass."""
_READY: Final = f"max({FIVE.of('injector_ready')}) or vector(0)"
_LEFT: Final = f"min({FIVE.of('injector_certificate_expiry_timestamp_seconds')}) - time()"

INJECTOR_ALERTS: Final = (
    Alert(
        name="OutriderPodsWithoutSidecar",
        measure=total(grown(_PASSED, WINDOW)),
        limit="> 0",
        minutes=1,
        severity="critical",
        summary="{{ $value | humanize }} pods were created without asking the injector",
        description="The API server could not reach it in time and let them pass (failurePolicy: Ignore). They run without a sidecar until they are made anew. Is the injector ready, and is there a way from the API server to its port?",
    ),
    Alert(
        name="OutriderInjectorFails",
        measure=total(grown(FIVE.of("injector_requests_total", result='="error"'), WINDOW), "reason"),
        limit="> 0",
        minutes=1,
        severity="critical",
        summary="The injector let {{ $value | humanize }} pods pass without a verdict: {{ $labels.reason }}",
        description="They run without a sidecar. The injector's log has the error; overloaded and timeout mean more replicas or CPU, no_defaults a ConfigMap that cannot be read.",
    ),
    Alert(
        name="OutriderSidecarRefused",
        measure=total(grown(FIVE.of("injector_requests_total", result='="refused"'), WINDOW), "reason"),
        limit="> 0",
        minutes=1,
        severity="warning",
        summary="{{ $value | humanize }} pods cannot have the sidecar that they ask for: {{ $labels.reason }}",
        description="Each pod says why in its annotation outrider.dev/not-injected, and an Event SidecarRefused says it to its owner.",
    ),
    Alert(
        name="OutriderInjectorDown",
        measure=f"({_READY})",
        limit="< 1",
        minutes=5,
        severity="critical",
        summary="No injector is ready",
        description="New pods come up without a sidecar, or not at all with failurePolicy: Fail. Its readiness probe says what is missing: the certificate, the caBundle or the defaults.",
    ),
    Alert(
        name="OutriderInjectorCertificate",
        measure=_LEFT,
        limit="< 86400",
        minutes=15,
        severity="warning",
        summary="The injector's certificate expires in {{ $value | humanizeDuration }}",
        description="It is renewed days before that, so something keeps it from being: rights on its Secret, cert-manager, or whoever makes it. After that no pod gets a sidecar.",
    ),
)
