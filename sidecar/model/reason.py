"""The closed vocabularies of an outcome: why an exchange failed, which clock fired, in which phase."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why the sidecar answered instead of the upstream. RFC 9209 section 2.3 error types first, our own after."""

    DNS_TIMEOUT = "dns_timeout"
    DNS_ERROR = "dns_error"
    DESTINATION_NOT_FOUND = "destination_not_found"
    DESTINATION_UNAVAILABLE = "destination_unavailable"
    DESTINATION_IP_PROHIBITED = "destination_ip_prohibited"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_TERMINATED = "connection_terminated"
    CONNECTION_TIMEOUT = "connection_timeout"
    CONNECTION_READ_TIMEOUT = "connection_read_timeout"
    CONNECTION_WRITE_TIMEOUT = "connection_write_timeout"
    CONNECTION_LIMIT_REACHED = "connection_limit_reached"
    TLS_PROTOCOL_ERROR = "tls_protocol_error"
    TLS_CERTIFICATE_ERROR = "tls_certificate_error"
    TLS_ALERT_RECEIVED = "tls_alert_received"
    HTTP_REQUEST_ERROR = "http_request_error"
    HTTP_REQUEST_DENIED = "http_request_denied"
    HTTP_RESPONSE_INCOMPLETE = "http_response_incomplete"
    HTTP_RESPONSE_HEADER_SECTION_SIZE = "http_response_header_section_size"
    HTTP_RESPONSE_TIMEOUT = "http_response_timeout"
    HTTP_UPGRADE_FAILED = "http_upgrade_failed"
    HTTP_PROTOCOL_ERROR = "http_protocol_error"
    PROXY_INTERNAL_ERROR = "proxy_internal_error"
    PROXY_CONFIGURATION_ERROR = "proxy_configuration_error"
    PROXY_LOOP_DETECTED = "proxy_loop_detected"
    # Where RFC 9209 has no word.
    NO_ROUTE = "no_route"
    REQUEST_TIMEOUT = "request_timeout"
    STREAM_IDLE_TIMEOUT = "stream_idle_timeout"
    OVERLOADED = "overloaded"
    CIRCUIT_OPEN = "circuit_open"
    RATE_LIMITED = "rate_limited"
    DRAINING = "draining"
    CLIENT_CLOSED = "client_closed"
    REQUEST_HEADER_TIMEOUT = "request_header_timeout"
    REQUEST_BODY_TIMEOUT = "request_body_timeout"
    REQUEST_TOO_LARGE = "request_too_large"
    HEADER_SECTION_TOO_LARGE = "header_section_too_large"
    URI_TOO_LONG = "uri_too_long"


class Clock(StrEnum):
    """The independent clocks of product.md 3.2, named as in the document."""

    REQUEST = "request"
    BACKEND_REQUEST = "backendRequest"
    CONNECT = "connect"
    QUEUE = "queue"
    RESPONSE_HEADER = "responseHeader"
    STREAM_IDLE = "streamIdle"
    TUNNEL_IDLE = "tunnelIdle"
    UPGRADE_HANDSHAKE = "upgradeHandshake"
    HEADER = "headerTimeout"
    BODY_IDLE = "bodyIdleTimeout"


class Phase(StrEnum):
    """Where in an attempt something happened. `POOL` and `CONNECT`: no byte of the request has left us."""

    POOL = "pool"
    CONNECT = "connect"
    SEND = "send"
    HEADERS = "headers"
    BODY = "body"


class Rejection(StrEnum):
    """The rule that refused bytes from a peer: label `kind` of `outrider_rejected_messages_total`."""

    BAD_REQUEST_LINE = "bad_request_line"
    BAD_STATUS_LINE = "bad_status_line"
    BAD_VERSION = "bad_version"
    BAD_TARGET = "bad_target"
    BAD_HOST = "bad_host"
    BAD_FIELD_NAME = "bad_field_name"
    BAD_FIELD_VALUE = "bad_field_value"
    BARE_LF = "bare_lf"
    OBS_FOLD = "obs_fold"
    UNDERSCORE_NAME = "underscore_name"
    BAD_CONTENT_LENGTH = "bad_content_length"
    CL_TE_CONFLICT = "cl_te_conflict"
    BAD_TRANSFER_ENCODING = "bad_transfer_encoding"
    UNKNOWN_TRANSFER_ENCODING = "unknown_transfer_encoding"
    TE_IN_HTTP10 = "te_in_http10"
    BAD_CHUNK = "bad_chunk"
    CHUNK_LINE_TOO_LONG = "chunk_line_too_long"
    BAD_TRAILER = "bad_trailer"
    HEAD_TOO_LARGE = "head_too_large"
    TOO_MANY_FIELDS = "too_many_fields"
    TARGET_TOO_LONG = "target_too_long"
    BODY_TOO_LARGE = "body_too_large"
    BODY_ON_BODYLESS = "body_on_bodyless"
    UNASKED_UPGRADE = "unasked_upgrade"
    TOO_MANY_INTERIM = "too_many_interim"
    HEADER_TIMEOUT = "header_timeout"
    TLS_ON_PLAIN_PORT = "tls_on_plain_port"
    PLAIN_ON_TLS_PORT = "plain_on_tls_port"
