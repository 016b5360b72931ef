"""`python -m fuzz [TARGET...]`: every target for a share of FUZZ_SECONDS; exit 1 when one finds something."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz import seeds
from fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
EXPLORED = ROOT / ".cache" / "fuzz" / "explored"
SECONDS = 120
MAX_BYTES = 4096
SLACK = 120
"""Seconds that a target may take to start and to read its seeds."""


def main(names: list[str]) -> int:
    """Fuzz the targets of these names, or all."""
    if unknown := set(names) - set(TARGETS):
        print(f"no such target: {', '.join(sorted(unknown))} (there are {', '.join(TARGETS)})", file=sys.stderr)
        return 2
    names = names or list(TARGETS)
    try:
        share = max(int(os.environ.get("FUZZ_SECONDS") or SECONDS) // len(names), 1)
    except ValueError:
        print("FUZZ_SECONDS must be a whole number of seconds", file=sys.stderr)
        return 2
    return max([_fuzz(name, share) for name in names])


def _fuzz(name: str, seconds: int) -> int:
    explored = EXPLORED / name
    explored.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "seeds"
        given.mkdir()
        for number, seed in enumerate(seeds.of(name)):
            (given / str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=1500", "-print_final_stats=1"]
        command = [sys.executable, "-m", "fuzz.child", name, *limits, f"-artifact_prefix={folder}/", str(explored), str(given)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds + SLACK, check=False)
        except subprocess.TimeoutExpired:
            print(f"{name}: did not end within {seconds + SLACK} s")
            return 1
        found = [path for path in Path(folder).iterdir() if path.name.startswith(("crash-", "timeout-", "oom-", "leak-"))]
        kept = [_keep(name, path) for path in found]
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    print(f"{name}: {executions[1] if executions else '?'} executions, {covered[-1] if covered else '?'} edges", flush=True)
    if done.returncode or kept:
        print(done.stdout[-3000:], done.stderr[-3000:], f"kept: {kept}", sep="\n")
        return 1
    return 0


def _keep(name: str, path: Path) -> str:
    """What was found becomes a seed, which `make test` plays from now on."""
    folder = Path(seeds.HERE) / "seeds" / name
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.copy(path, folder / path.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
