"""Flags and their variables: `--some-flag` falls back to `OUTRIDER_SOME_FLAG`; the flag wins (interface.md section 1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar.model.quantity import parse_duration

if TYPE_CHECKING:
    import argparse

DEFAULT_ADMIN = "http://127.0.0.1:15020"


class _FromVariable(str):
    """A default that came from the environment, so that a complaint about it can name the variable."""

    __slots__ = ("variable",)
    variable: str


def add_flag(
    parser: argparse._ActionsContainer, name: str, *, parse: Callable[[str], Any] = str, default: str | None = None, **options: Any
) -> None:
    """Add `name` to `parser`; its variable, when set and not empty, takes the place of `default`.

    `parse` raises ValueError with words for a person; argparse applies it to the variable's text too.
    """
    variable = variable_of(name)
    value: str | None = default
    if text := os.environ.get(variable, ""):
        value = _FromVariable(text)
        value.variable = variable
    parser.add_argument(name, type=_checked(parse), default=value, **options)


def add_switch(parser: argparse._ActionsContainer, name: str, **options: Any) -> None:
    """Add a flag that is on or off: `--name`, `--name false`, or its variable."""
    add_flag(parser, name, parse=switch, default="false", nargs="?", const=True, metavar="BOOL", **options)


def variable_of(flag: str) -> str:
    """The variable of a flag: `--admin-address` gives `OUTRIDER_ADMIN_ADDRESS`."""
    return "OUTRIDER_" + flag.lstrip("-").replace("-", "_").upper()


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            from argparse import ArgumentTypeError

            origin = f"{text.variable}: " if isinstance(text, _FromVariable) else ""
            raise ArgumentTypeError(f"{origin}{error}") from None

    return convert


def add_admin_flag(parser: argparse._ActionsContainer) -> None:
    """`--admin URL`; `admin_address` tells what it comes to."""
    parser.add_argument("--admin", metavar="URL", help=f"admin address of the sidecar, or unix:PATH (default {DEFAULT_ADMIN})")


def admin_address(args: argparse.Namespace) -> str:
    """`--admin`, else `OUTRIDER_ADMIN`, else what the sidecar itself was told with `OUTRIDER_ADMIN_ADDRESS`, else the default."""
    return args.admin or os.environ.get("OUTRIDER_ADMIN") or os.environ.get("OUTRIDER_ADMIN_ADDRESS") or DEFAULT_ADMIN


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser of closed choices."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not a choice (write {' or '.join(choices)})")
        return text

    return parse


def switch(text: str) -> bool:
    """`true` or `false`, as a variable spells it. Raises ValueError."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def duration(text: str) -> float:
    """Seconds of a GEP-2257 duration such as `1m30s`. Raises ValueError with an example."""
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a duration (write for example 30s, 500ms or 1m30s)") from None
