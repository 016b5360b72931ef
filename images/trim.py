"""Takes out of an image what nothing in it uses, and compiles the rest. Runs while the image is built, never in it.

trim.py ENVIRONMENT [--sidecar]   a virtual environment: tests, headers, and for the sidecar Kubernetes' models
trim.py --interpreter             the base image's own Python: its package installer

What is compiled has no docstrings and, where PYTHONNODEBUGRANGES says so, no columns: nothing in an image reads them but the
schema, and they are a twentieth of a sidecar's memory. Lines and asserts stay.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import shutil
import sys
import sysconfig
from pathlib import Path

UNUSED = ("**/tests", "**/test", "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.c", "**/*.h", "**/include")
"""Parts of packages that are for developers."""
KUBERNETES = ("models", "api")
"""Of kubernetes_asyncio/client: 26 MB that the sidecar never imports (sidecar/kube/lean.py)."""
DESCRIBED = ("sidecar/model/*", "sidecar/config/*", "pycparser/*", "pycparser/*/*")
"""Modules whose docstrings are read: those of the document are in its schema, pycparser has grammars in them."""
INSTALLERS = ("pip", "pip-*", "setuptools", "setuptools-*", "wheel", "wheel-*", "ensurepip")


def main(arguments: list[str]) -> None:
    """See the top of this file."""
    if "--interpreter" in arguments:
        trim_interpreter()
        return
    environment = Path(arguments[0])
    packages = next(environment.glob("lib/python3*/site-packages"))
    for pattern in UNUSED:
        for path in sorted(packages.glob(pattern)):
            remove(path)
    if "--sidecar" in arguments:
        for name in KUBERNETES:
            remove(packages / "kubernetes_asyncio" / "client" / name)
        remove(packages / "sidecar" / "injector")
    if failed := compile_all(packages):
        raise SystemExit(f"trim: {failed[0]} does not compile")


def trim_interpreter() -> None:
    """Without pip nobody installs anything in a running container."""
    libraries = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))}
    for library in libraries:
        for pattern in INSTALLERS:
            for path in library.glob(pattern):
                remove(path)
    for script in ("/usr/local/bin", "/usr/bin"):
        for path in Path(script).glob("pip*"):
            remove(path)
    remove(Path("/usr/share/python-wheels"))
    compile_all(Path(sysconfig.get_path("stdlib")))  # the base has only sources: each start would compile what it imports


def compile_all(folder: Path) -> list[Path]:
    """Compile every module below `folder`; what is compiled already goes. Returns what is no module of this Python's (the standard library has such)."""
    failed = []
    for cache in sorted(folder.rglob("__pycache__")):
        remove(cache)
    for path in sorted(folder.rglob("*.py")):
        try:
            compile_one(path, folder)
        except (SyntaxError, UnicodeDecodeError):
            failed.append(path)
    return failed


def compile_one(path: Path, folder: Path) -> None:
    """As `importlib` looks for it: PEP 552's unchecked form, since sources in a read-only image never change."""
    source = path.read_bytes()
    tree = ast.parse(source, path)
    if not any(path.relative_to(folder).match(pattern) for pattern in DESCRIBED):
        strip_docstrings(tree)
    code = compile(tree, str(path), "exec", dont_inherit=True, optimize=0)
    target = Path(importlib.util.cache_from_source(str(path)))
    target.parent.mkdir(exist_ok=True)
    flags = (0b01).to_bytes(4, "little")  # the source's hash, unchecked
    target.write_bytes(importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code))


def strip_docstrings(tree: ast.Module) -> None:
    """A definition that has nothing else gets `pass`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            rest = node.body[1:]
            node.body = rest or ([] if isinstance(node, ast.Module) else [ast.copy_location(ast.Pass(), node.body[0])])


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
