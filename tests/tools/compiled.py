"""The tests over the compiled package: `make compiled-test`, or some of them with `make compiled-test ARGS="tests/engine -x"`.

Copies the checkout to .cache/compiled, with a venv of its own, puts beside the sources there what the build hook compiles
from them (two minutes, again only when they change), and runs pytest; with `--build` alone it runs nothing: the bench
measures what is there. Needs a C compiler and Python's headers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache/compiled"
CHECKOUT = FOLDER / "checkout"
EXTENSIONS = FOLDER / "extensions"
PYTHON = FOLDER / "venv/bin/python"
INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
LOCKS = ("requirements-dev.lock", "requirements-build.lock")


def main(arguments: list[str]) -> int:
    """The exit code of pytest."""
    build()
    return 0 if arguments == ["--build"] else subprocess.run([PYTHON, "-m", "pytest", *arguments], cwd=CHECKOUT, check=False).returncode


def build() -> None:
    """Make CHECKOUT what the checkout is now, compiled."""
    copy()
    if changed("venv", *LOCKS):
        venv.create(PYTHON.parents[1], clear=True, with_pip=True)
        locks = [word for lock in LOCKS for word in ("--requirement", lock)]
        run(*INSTALL, "--require-hashes", "--only-binary", ":all:", *locks)
        run(*INSTALL, "--no-deps", "--no-build-isolation", "--editable", ".")
        done("venv", *LOCKS)
    sources = [str(path.relative_to(CHECKOUT)) for path in sorted((CHECKOUT / "sidecar").rglob("*.py"))]
    if changed("extensions", *LOCKS, "hatch_build.py", *sources):
        print("compiling ...", flush=True)
        shutil.rmtree(EXTENSIONS, ignore_errors=True)
        run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(EXTENSIONS), ".", OUTRIDER_COMPILE="1")
        done("extensions", *LOCKS, "hatch_build.py", *sources)
    with zipfile.ZipFile(next(EXTENSIONS.glob("*.whl"))) as wheel:
        wheel.extractall(CHECKOUT, [name for name in wheel.namelist() if name.endswith(".so")])


def copy() -> None:
    """The files of the checkout, new ones too; the programs that tests run are where they were."""
    shutil.rmtree(CHECKOUT, ignore_errors=True)
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (CHECKOUT / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, CHECKOUT / name)
    (CHECKOUT / ".cache").mkdir()
    (CHECKOUT / ".cache/tools").symlink_to(ROOT / ".cache/tools")


def run(*arguments: str, **environment: str) -> None:
    """Python of the venv, in the checkout. Raises SystemExit with its output when it fails."""
    ended = subprocess.run([PYTHON, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False, env=os.environ | environment)
    if ended.returncode:
        raise SystemExit(f"{ended.stdout[-4000:]}{ended.stderr[-4000:]}\ncompiled-test: {' '.join(arguments[:3])} failed")


def changed(what: str, *names: str) -> bool:
    """Whether `what` was made of other contents than the files of these names now have, or not yet."""
    stamp = FOLDER / f"{what}.stamp"
    return not stamp.exists() or stamp.read_text() != digest(names)


def done(what: str, *names: str) -> None:
    """`what` has been made of them."""
    (FOLDER / f"{what}.stamp").write_text(digest(names))


def digest(names: tuple[str, ...]) -> str:
    """Of the interpreter and the files' contents."""
    made = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for name in names:
        made.update(name.encode() + (CHECKOUT / name).read_bytes())
    return made.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
