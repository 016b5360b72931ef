"""Writes docs/failures.md from the table of cells: `python -m faults.failures --write`, which `make docs` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from faults.cells import CELLS, CUT, FAULTS, GONE, MORE, PHASES, TUNNEL, Cell

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "failures.md"
_MEANING: Final = {
    "DNS": "the upstream's name is asked for",
    "connect": "a connection is opened",
    "TLS": "the handshake with the upstream, on a connection that has been opened",
    "send": "the request's body is on its way; the fault is in what the upstream does meanwhile",
    "wait": "the request has been sent, nothing of the response has come",
    "headers": "a part of the response's head has come",
    "body": "the response's head has gone to the client, its body is on its way",
    "idle": "a pooled connection rests between two requests; the outcome is the second's",
    "tunnel": "an upgrade has been asked for, or has been made",
}
_INTRODUCTION: Final = """# Failures

What becomes of a request, for every phase it can be in and every fault that can happen there. Each row is proven by a test of the same
name (`tests/faults/test_fault_table.py`), and this page is written from the same table by `make docs`.

- **Client gets**: the status of our reply, or *cut*: its connection is reset after what it had got, so that nothing looks whole that is not.
- **Reason** is the word in `Proxy-Status`, in the body, in `reason` of the access log and of `outrider_requests_total`, and in `outrider.reason` and `error.type` of
  the span and of the last try's (`client_closed` is no error there); **clock** is `clock` of the log, `outrider.clock` of both spans, and counted in
  `outrider_timeouts_total`. No reason: it counts as the upstream's answer (`reason="none"`). Each row's test looks into all of these.
- **Tries** without a `retry` stanza, for GET (POST while sending): a failed connect is replayed once for every method. With a stanza `conditions` and `codes` add tries, never
  after a byte has gone to the client ([the reference](reference.md)). A failed handshake is a failed connect, but a certificate that was refused is shown to the same
  endpoint once only.
- **Kept**: which connections take another request afterwards. What is not kept is closed.
- *Refuse* is the other side saying no in its own way: NXDOMAIN, RST to a SYN, a status. *Drain* is `drainTimeout` having passed: until then exchanges go on.
"""


def page(cells: Sequence[Cell], more: Sequence[Cell]) -> str:
    """The whole document; `more` are rows that only one phase has."""
    by_place = {(cell.phase, cell.fault): cell for cell in cells}
    proven = sum(not cell.why_not for cell in cells)
    lines = [
        _INTRODUCTION,
        f"{len(cells)} cells: {proven} proven, {len(cells) - proven} that cannot happen. Rows beyond these, of one phase alone: {len(more)}, proven.",
        "",
    ]
    for phase in PHASES:
        lines += [
            f"## {phase}: {_MEANING[phase]}",
            "",
            "| fault | client gets | reason | clock | tries | kept |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_row(by_place[phase, fault]) for fault in FAULTS]
        lines += [_row(cell) for cell in more if cell.phase == phase]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(cell: Cell) -> str:
    if cell.why_not:
        return f"| {cell.fault} | *{cell.why_not}* | | | | |"
    words = {
        CUT: "cut",
        GONE: "nothing: it has gone" if cell.fault == "client leaves" else "closed without a word",
        TUNNEL: "its tunnel, to its own end",
    }
    seen = str(cell.seen) if isinstance(cell.seen, int) else words[cell.seen]
    kept = " and ".join(name for name, one in (("client", cell.client_kept), ("upstream", cell.upstream_kept)) if one) or "neither"
    reason = f"`{cell.reason.value}`" if cell.reason is not None else ""
    clock = f"`{cell.clock.value}`" if cell.clock is not None else ""
    return f"| {cell.fault} | {seen} | {reason} | {clock} | {cell.tries} | {kept} |"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(page(CELLS, MORE), encoding="utf-8")
    else:
        sys.stdout.write(page(CELLS, MORE))
