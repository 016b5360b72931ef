"""What no client of a kind can do: the exceptions from the contract, each with the test that shows what happens instead.

docs/reference.md has the same list for users (test_contract_exceptions.py compares them).
"""

from __future__ import annotations

from typing import NamedTuple


class Exception_(NamedTuple):  # noqa: N801 - the language has taken the name
    what: str
    shown_by: str


HTTP2 = (
    Exception_("case of field names", "test_contract_http2.test_fields_of_a_request_are_those_that_http2_knows"),
    Exception_(
        "`Upgrade`, WebSockets", "test_contract_tunnels.test_over_h2c_an_upgrade_fails_before_anything_is_sent_and_says_what_to_write"
    ),
    Exception_("reason phrase", "test_contract_exceptions.test_http2_has_no_reason_phrase"),
    Exception_("order of `Host`", "test_contract_http2.test_fields_of_a_request_are_those_that_http2_knows"),
    Exception_("`learnKeepAlive`", "test_contract_exceptions.test_over_http2_nothing_is_learned_about_idle_connections"),
)
"""Of `Httpx` with `HTTP2` and `H2C`. Over HTTP/1.1 there are none."""
