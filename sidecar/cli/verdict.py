"""What `outrider validate` found, as text, as JSON, or as annotations of a GitHub workflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sidecar.config.check import CheckResult
from sidecar.observe.text import printable


class Checked(NamedTuple):
    """A file and what was found in it; `result` None: it could not be read, `error` says why."""

    name: str
    result: CheckResult | None
    error: str = ""


@dataclass(slots=True)
class Verdict:
    """About all files. `summary`: whether a last line counts them; `passed_over`: files with nothing of ours."""

    summary: bool
    checked: list[Checked] = field(default_factory=list)
    passed_over: int = 0

    def add(self, one: Checked | None) -> None:
        """Note a file; None: it was passed over."""
        if one is None:
            self.passed_over += 1
        else:
            self.checked.append(one)

    def counts(self) -> str:
        """`3 documents in 2 files: 1 file valid, 1 not valid; 4 other files passed over`."""
        results = [one.result for one in self.checked if one.result is not None]
        bad, unreadable = sum(bool(result.problems) for result in results), len(self.checked) - len(results)
        documents = sum(result.documents for result in results)
        text = f"{_many(documents, 'document')} in {_many(len(results), 'file')}: {len(results) - bad} valid, {bad} not valid"
        text += f", {unreadable} unreadable" if unreadable else ""
        return text + (f"; {_many(self.passed_over, 'other file')} passed over" if self.passed_over else "")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _print_text(verdict: Verdict) -> None:
    for name, result, error in verdict.checked:
        if result is None:
            print(f"outrider: {printable(error)}", file=sys.stderr)
            continue
        for problem in result.problems:
            print(printable(problem.render(name)))
        for warning in result.warnings:
            print(printable(f"{name}: warning: {warning}"))
        if not result.problems:
            print(printable(f"{name}: valid" + (f" ({result.documents} documents)" if result.documents > 1 else "")))
    if verdict.summary:
        print(verdict.counts())


def _print_json(verdict: Verdict) -> None:
    files = [_as_json(one) for one in verdict.checked]
    print(json.dumps({"valid": all(file["valid"] for file in files), "passedOver": verdict.passed_over, "files": files}, indent=2))


def _as_json(checked: Checked) -> dict[str, Any]:
    result = checked.result
    if result is None:
        return {"file": checked.name, "valid": False, "error": checked.error, "documents": 0, "problems": [], "warnings": []}
    problems = [{"path": one.path, "line": one.line, "column": one.column, "message": one.message} for one in result.problems]
    told = {"file": checked.name, "valid": not problems, "error": None, "documents": result.documents}
    return {**told, "problems": problems, "warnings": list(result.warnings)}


def _print_github(verdict: Verdict) -> None:
    for line in _annotations(verdict):
        print(line)
    print(verdict.counts())


def _annotations(verdict: Verdict) -> Iterator[str]:
    """Workflow commands: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands."""
    for name, result, error in verdict.checked:
        if result is None:
            yield _command("error", error, file=name)
            continue
        for problem in result.problems:
            message = f"{problem.path}: {problem.message}" if problem.path else problem.message
            yield _command("error", message, file=name, line=problem.line, col=problem.column)
        for warning in result.warnings:
            yield _command("warning", warning, file=name)


def _command(kind: str, message: str, **properties: object) -> str:
    named = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    return f"::{kind} {named}::{_data(message)}"


def _data(text: str) -> str:
    """A value that ends at the line's end; what is not printable is shown as an escape, so no value forges a command."""
    return printable(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


FORMATS: Final[dict[str, Callable[[Verdict], None]]] = {"text": _print_text, "json": _print_json, "github": _print_github}
"""By the word that `--output` takes."""
