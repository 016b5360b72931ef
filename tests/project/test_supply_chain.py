"""What we ship is named with hashes, its licences are listed, and known vulnerabilities are found without the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools import audit, index, licences, locked, sbom

PACKAGE = locked.Package("some-thing", "1.5.0", "", ("0" * 64,))


def record(**affected: object) -> audit.Record:
    return {"id": "PYSEC-1", "summary": "bad", "affected": [{"package": {"ecosystem": "PyPI", "name": "Some_Thing"}, **affected}]}


def events(*pairs: tuple[str, str], kind: str = "ECOSYSTEM") -> audit.Record:
    return record(ranges=[{"type": kind, "events": [{name: version} for name, version in pairs]}])


@pytest.mark.parametrize("path", locked.locks(), ids=lambda path: path.name)
def test_every_lock_names_versions_with_hashes_and_nothing_else(path: Path) -> None:
    assert locked.read(path)
    for line in path.read_text(encoding="utf-8").splitlines():
        assert line.startswith((" ", "#")) or "==" in line, line


def test_a_lock_without_a_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("a==1\n")
    with pytest.raises(ValueError, match="a has no hash"):
        locked.read(path)


@pytest.mark.parametrize(
    ("found", "concerns"),
    [
        (events(("introduced", "0")), True),
        (events(("introduced", "0"), ("fixed", "1.5.0")), False),
        (events(("introduced", "0"), ("fixed", "1.10")), True),
        (events(("introduced", "1.5.1")), False),
        (events(("introduced", "0"), ("last_affected", "1.5.0")), True),
        (events(("introduced", "0"), ("last_affected", "1.4.9")), False),
        (events(("introduced", "0"), ("fixed", "1.0"), ("introduced", "1.4"), ("fixed", "2")), True),
        (events(("introduced", "0"), kind="GIT"), False),
        (record(versions=["1.5.0"]), True),
        (record(versions=["1.5"]), False),
        ({**events(("introduced", "0")), "affected": []}, False),
    ],
)
def test_a_version_is_affected_within_the_events_of_a_range(found: audit.Record, concerns: bool) -> None:
    assert audit.affected_by(found, PACKAGE)[0] is concerns


def test_other_ecosystems_and_names_are_not_ours() -> None:
    other = events(("introduced", "0"))
    other["affected"][0]["package"]["ecosystem"] = "npm"
    assert not audit.affected_by(other, PACKAGE)[0]
    assert not audit.affected_by(events(("introduced", "0")), PACKAGE._replace(name="some"))[0]


def test_a_vulnerability_of_a_locked_package_fails_the_audit_with_its_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {package.name: package for package in locked.read(locked.SHIPPED["sidecar"])}
    mine = names["aiohttp"]
    advisory = {
        "id": "PYSEC-2",
        "modified": "2026-11-30T00:00:00Z",
        "summary": "smuggling",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": "aiohttp"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
            }
        ],
    }
    (tmp_path / "vulns").mkdir()
    (tmp_path / "vulns" / "PYSEC-2.json").write_text(json.dumps(advisory))
    (tmp_path / "vulns" / "PYSEC-3.yaml").write_text("id: PYSEC-3\nwithdrawn: 2020-01-01\naffected: []\n")

    assert audit.main(["--database", str(tmp_path)]) == 1

    said = capsys.readouterr().out
    assert f"requirements.lock: aiohttp {mine.version}: PYSEC-2: smuggling (fixed in 99.1)" in said
    assert "against 1 advisories (the newest of 2026-11-30)" in said


def test_without_a_database_the_audit_says_loudly_that_it_was_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert audit.main(["--database", str(folder)]) == 0
        assert capsys.readouterr().err.startswith("AUDIT NOT DONE: ")
        assert audit.main(["--database", str(folder), "--require"]) == 2


def test_the_locks_against_the_database_that_is_here() -> None:
    if not audit.FOLDER.is_dir():
        pytest.skip(f"NO ADVISORY DATABASE: git clone --depth 1 {audit.SOURCE} .cache/advisories")
    findings, count, _ = audit.audit(audit.FOLDER, locked.locks())
    assert count
    assert [str(finding) for finding in findings] == []


def test_the_list_of_licences_is_current() -> None:
    assert licences.DOCUMENT.read_text(encoding="utf-8") == licences.render(licences.DOCUMENT.read_text(encoding="utf-8"))


def test_every_licence_is_one_that_asks_for_nothing_of_ours() -> None:
    listed = [line.split(" | ")[1] for line in licences.DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    assert listed
    assert [one for one in listed if not licences.is_permitted(one)] == []
    assert not licences.is_permitted("GPL-3.0-only")
    assert not licences.is_permitted("MIT AND AGPL-3.0-or-later")
    assert licences.is_permitted("MIT OR GPL-2.0-only")


@pytest.mark.parametrize("image", locked.SHIPPED)
def test_a_bill_of_materials_names_every_locked_package_with_its_hashes(image: str) -> None:
    bill = sbom.bill(image)
    packages = locked.read(locked.SHIPPED[image])
    assert [(one["name"], one["version"], one["purl"]) for one in bill["components"]] == [
        (one.name, one.version, one.purl) for one in packages
    ]
    assert bill == sbom.bill(image), "the same lock gives the same bill"
    assert len(bill["dependencies"][0]["dependsOn"]) == len(packages)
    for component, package in zip(bill["components"], packages, strict=True):
        assert tuple(entry["value"] for entry in component["properties"]) == package.hashes
        assert component.get("licenses") or package.marker


ADVISORY = {"id": "PYSEC-2026-1", "summary": "it explodes", "fixed_in": ["1.3"], "withdrawn": None}


def served(*, exact: bool, version: str, known: list[dict[str, object]]) -> index.Fetch:
    """An index that has one version's document, or only the project's."""
    document = json.dumps({"info": {"version": version}, "vulnerabilities": known}).encode()

    def get(url: str) -> bytes | None:
        assert url.startswith("https://index.test/pypi/some/")
        return document if url.endswith("/some/1.2/json") == exact else None

    return get


@pytest.mark.parametrize(
    ("exact", "version", "known", "expected"),
    [
        (True, "1.2", [ADVISORY], [ADVISORY]),
        (True, "1.2", [{**ADVISORY, "withdrawn": "2026-02-01"}], []),
        (False, "1.2", [ADVISORY], [ADVISORY]),
        (False, "1.3", [], None),
    ],
    ids=["of the version", "withdrawn", "of the newest, which it is", "of the newest, which it is not"],
)
def test_an_index_is_believed_about_the_locked_version_alone(
    exact: bool, version: str, known: list[dict[str, object]], expected: list[dict[str, object]] | None
) -> None:
    package = locked.Package("some", "1.2", "", ("0",))
    assert index.vulnerabilities(package, "https://index.test", served(exact=exact, version=version, known=known)) == expected


def test_what_the_index_does_not_tell_is_named_and_is_no_clean_audit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(_url: str) -> bytes | None:
        raise OSError("no network")

    monkeypatch.setattr(audit, "ask_index", lambda paths, names: real(paths, names, away))
    assert audit.main(["--index", "h2", "--require"]) == 2
    assert "NOT AUDITED" in capsys.readouterr().err
    assert audit.main(["--index", "not-a-package", "--require"]) == 2


real = audit.ask_index
