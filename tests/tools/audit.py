"""`python -m tools.audit [--database FOLDER] [--require] [--index [NAME ...]]`: known vulnerabilities of what the locks name.

The database is a copy of the PyPA advisory database or any folder of OSV records (JSON or YAML). Exit 1: something is affected;
2: `--require` was said and there is no database. Without a database it says, loudly, that nothing was looked at. With `--index` the
package index that pip is configured with is asked instead (tools/index.py), one package at a time: all, or those of these names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from packaging.version import InvalidVersion, Version

from tools import index
from tools.locked import ROOT, Package, locks, plain_name, read

FOLDER: Final = ROOT / ".cache" / "advisories"
SOURCE: Final = "https://github.com/pypa/advisory-database"
ACCEPTED: Final[dict[str, str]] = {}
"""Advisories that do not concern us, each with the reason."""

Record = dict[str, Any]


class Finding(NamedTuple):
    """A locked package that an advisory names."""

    lock: str
    package: Package
    id: str
    summary: str
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        cure = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no fix is known"
        return f"{self.lock}: {self.package.name} {self.package.version}: {self.id}: {self.summary} ({cure})"


def records(folder: Path) -> Iterator[Record]:
    """All records of a database that have not been withdrawn. Raises ValueError for a file that is none."""
    for path in sorted([*folder.rglob("*.json"), *folder.rglob("*.yaml")]):
        if path.relative_to(folder).parts[0].startswith("."):
            continue
        text = path.read_text(encoding="utf-8")
        record = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.CSafeLoader)
        if not isinstance(record, dict) or "id" not in record:
            raise ValueError(f"{path} is not an OSV record")
        if not record.get("withdrawn"):
            yield record


def affected_by(record: Record, package: Package) -> tuple[bool, tuple[str, ...]]:
    """Whether `record` concerns this version of the package, and the versions that mend it."""
    concerns, fixed = False, []
    for entry in record.get("affected", []):
        about = entry.get("package", {})
        if about.get("ecosystem") != "PyPI" or plain_name(str(about.get("name", ""))) != package.name:
            continue
        ranges = [one.get("events", []) for one in entry.get("ranges", []) if one.get("type") == "ECOSYSTEM"]
        concerns = concerns or package.version in entry.get("versions", []) or any(_within(events, package.version) for events in ranges)
        fixed += [event["fixed"] for events in ranges for event in events if "fixed" in event]
    return concerns, tuple(fixed)


def _within(events: list[dict[str, str]], version: str) -> bool:
    """Whether the events of a range (OSV schema, in order of version) leave `version` affected."""
    mine, inside = Version(version), False
    for event in events:
        for kind, text in event.items():
            if kind == "introduced" and (text == "0" or mine >= _version(text)):
                inside = True
            elif (kind == "fixed" and mine >= _version(text)) or (kind == "last_affected" and mine > _version(text)):
                inside = False
    return inside


def _version(text: str) -> Version:
    """A version of a record. One that is none sorts first: the package is then looked at by a person."""
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def audit(folder: Path, paths: list[Path]) -> tuple[list[Finding], int, str]:
    """What the database says about the locks, how many records it has for PyPI, and the date of the newest."""
    named = [(path.name, package) for path in paths for package in read(path)]
    wanted = {package.name for _, package in named}
    findings, count, newest = [], 0, ""
    for record in records(folder):
        count += 1
        newest = max(newest, str(record.get("modified") or record.get("published") or "")[:10])
        names = {plain_name(str(entry.get("package", {}).get("name", ""))) for entry in record.get("affected", [])}
        if record["id"] in ACCEPTED or not names & wanted:
            continue
        for lock, package in named:
            concerns, fixed = affected_by(record, package)
            if concerns:
                summary = str(record.get("summary") or record.get("details") or "").split("\n")[0][:120]
                findings.append(Finding(lock, package, record["id"], summary, fixed))
    return findings, count, newest


def ask_index(paths: list[Path], names: list[str], get: index.Fetch = index.fetch) -> tuple[list[Finding], list[str], int]:
    """What the index says about the locks, the packages of which it does not tell, and of how many it does."""
    packages = {package[:2]: (path.name, package) for path in paths for package in read(path) if not names or package.name in names}
    findings, untold, base = [], [], index.index_url()
    for lock, package in packages.values():
        try:
            known = index.vulnerabilities(package, base, get)
        except (OSError, ValueError, KeyError):
            known = None
        if known is None:
            untold.append(f"{package.name} {package.version}")
        for one in known or []:
            if one["id"] not in ACCEPTED:
                summary = str(one.get("summary") or one.get("details") or "").split("\n")[0][:120]
                findings.append(Finding(lock, package, one["id"], summary, tuple(one.get("fixed_in", []))))
    return findings, untold, len(packages) - len(untold)


def by_index(names: list[str], *, require: bool) -> int:
    """The command with `--index`."""
    findings, untold, told = ask_index(locks(), [plain_name(name) for name in names])
    for finding in findings:
        print(finding)
    if untold or not told:
        print(f"NOT AUDITED, the index does not tell: {', '.join(untold) or 'no such package is locked'}", file=sys.stderr)
    print(f"{told} packages by the index: {len(findings)} findings, {len(ACCEPTED)} accepted")
    return 1 if findings else 2 if require and (untold or not told) else 0


def main(arguments: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description="Known vulnerabilities of what the lock files name.")
    parser.add_argument(
        "--database", type=Path, default=Path(os.environ.get("OUTRIDER_ADVISORIES") or FOLDER), help="a folder of OSV records"
    )
    parser.add_argument("--require", action="store_true", help="exit 2 when there is no database")
    parser.add_argument("--index", nargs="*", metavar="NAME", help="ask the package index instead, about these packages or all")
    asked = parser.parse_args(arguments)
    if asked.index is not None:
        return by_index(asked.index, require=asked.require)
    if not asked.database.is_dir():
        how = f"git clone --depth 1 {SOURCE} {asked.database}"
        print(f"AUDIT NOT DONE: no advisory database in {asked.database} (get one: {how})", file=sys.stderr)
        return 2 if asked.require else 0
    paths = locks()
    findings, count, newest = audit(asked.database, paths)
    if not count:
        print(f"AUDIT NOT DONE: {asked.database} holds no OSV records", file=sys.stderr)
        return 2 if asked.require else 0
    for finding in findings:
        print(finding)
    print(f"{len(paths)} locks against {count} advisories (the newest of {newest}): {len(findings)} findings, {len(ACCEPTED)} accepted")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
