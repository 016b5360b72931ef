"""What a failed handshake, or a connection that TLS ended, means: the reason (RFC 9209 section 2.3), and the why in words for our own log."""

from __future__ import annotations

import ssl

from sidecar.model.reason import Reason


class CutShort(ConnectionError):
    """The peer ended TCP without a `close_notify`: what it sent may not be all that it wanted to send (RFC 8446 section 6.1)."""


class TooLong(ConnectionError):
    """The peer sent more than any handshake needs, and the handshake is not over."""


def meaning(error: BaseException) -> tuple[Reason, str]:
    """The reason and the words for what a TlsStream ended with."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Reason.TLS_CERTIFICATE_ERROR, f"certificate: {str(error.verify_message).rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        words = words_of(error)
        if "alert" in words:
            return Reason.TLS_ALERT_RECEIVED, f"the peer sent a TLS alert: {words}"
        return Reason.TLS_PROTOCOL_ERROR, f"TLS: {words}"
    if isinstance(error, TooLong):
        return Reason.TLS_PROTOCOL_ERROR, f"TLS: {error}"
    if isinstance(error, CutShort):
        return Reason.CONNECTION_TERMINATED, str(error)
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return Reason.CONNECTION_TERMINATED, text


def words_of(error: ssl.SSLError) -> str:
    """OpenSSL's name for what happened, readable: `wrong version number`."""
    return (error.reason or "handshake failed").lower().replace("_", " ")
