"""The states of an exchange as a table. An absent cell is a bug: it is counted and logged, never silent."""

from __future__ import annotations

import logging
from typing import Final

from sidecar.model.exchange import Exchange, State

log = logging.getLogger("outrider")

MOVES: Final[dict[State, frozenset[State]]] = {
    State.RECEIVED: frozenset({State.ROUTED, State.REPLIED, State.ABORTED}),
    State.ROUTED: frozenset({State.SENDING, State.REPLIED, State.ABORTED}),
    State.SENDING: frozenset({State.RESPONDING, State.REPLIED, State.ABORTED}),
    State.RESPONDING: frozenset({State.DONE, State.ABORTED}),
    State.DONE: frozenset(),
    State.REPLIED: frozenset({State.ABORTED}),
    State.ABORTED: frozenset(),
}
violations = 0
"""Moves that the table does not have, since the process began."""


def move(exchange: Exchange, to: State) -> None:
    """Put `exchange` in state `to`."""
    if to not in MOVES[exchange.state]:
        global violations  # noqa: PLW0603 - one count for the process, read by tests and the admin surface
        violations += 1
        log.error("exchange moved from %s to %s", exchange.state.name, to.name, extra={"event": "internal_error"})
    exchange.state = to
