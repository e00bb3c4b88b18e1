"""Measure zodb-vault side by side with the tools that are used instead, in one run on one machine.

``make bench`` measures dataset M of ``generate.py`` (6.3 GB, needs 60 GB of disk and about half an hour);
``make bench ARGS='--dataset S'`` is a tenth of it. Each figure is for a whole process: wall seconds, CPU
seconds, peak memory. Absolute values depend on the machine. The goals are ratios within one run, of medians
where a job can be repeated.

Full backups, checks and restores begin with an empty page cache (as root; otherwise with the cache as it is).
Restores take turns and go
into directories of their own: ext4 creates files slowly for a minute after a mass deletion. Only zodb-vault
waits
until
what it restored is on the disk, and it gets no allowance for that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SMALLER = {"M": "S"}
MEMORY_LIMIT_MB = 200
DAYS = 3
ROUNDS = 3
# How long ext4 does not use a deleted inode again (RECENTCY_MIN in fs/ext4/ialloc.c), and a little more.
EXT4_PAUSE = 65


@dataclass
class Run:
    """One finished process."""

    wall: float
    cpu: float
    memory_mb: float


@dataclass
class Tool:
    """A tool with the commands of each job; a job may take several processes, whose times add up."""

    name: str
    repository: Path
    commands: dict[str, list[list[str]]]
    environment: dict[str, str]
    before: Callable[[], object] = lambda: None


def measured(command: Sequence[str], environment: dict[str, str], cwd: Path) -> Run:
    """Run a command to its end and return what the operating system accounted for it."""
    before = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - before
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1) or (process.returncode == 1 and "borg" not in command[0]):
        raise SystemExit(
            f"{' '.join(command)} failed with {process.returncode}:\n{errors.decode(errors='replace')}"
        )
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def settle() -> None:
    """Leave nobody the page cache, or the unwritten pages, of who was measured before."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")


def total(runs: Sequence[Run]) -> Run:
    return Run(sum(r.wall for r in runs), sum(r.cpu for r in runs), max(r.memory_mb for r in runs))


def size_mb(path: Path) -> float:
    return (
        sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink())
        / 1e6
    )


def generate(root: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, str(HERE / "generate.py"), *arguments, "--root", str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def tools(root: Path, dataset: str) -> list[Tool]:
    site = root / dataset
    data_fs, blobs, out = site / "Data.fs", site / "blobs", root / "out"
    python = [sys.executable, "-m"]
    ours = root / "zodb-vault"
    vault = [
        *python,
        "zodb_vault",
        "-q",
        "--repository",
        str(ours),
        "--data-fs",
        str(data_fs),
        "--blob-dir",
        str(blobs),
    ]
    restic = ["restic", "-q", "-r", str(root / "restic")]
    borg = str(root / "borg")
    repozo = [*python, "ZODB.scripts.repozo"]
    glued = root / "repozo"
    quiet = {
        "RESTIC_PASSWORD": "benchmark",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
    }

    def glue(*options: str) -> list[list[str]]:
        repo = [*repozo, "-B", *options, "-r", str(glued / "storage"), "-f", str(data_fs)]
        link = ["--link-dest", str(glued / "blobs")] if (glued / "blobs").exists() else []
        return [repo, ["rsync", "-a", *link, f"{blobs}/", str(glued / f"blobs{'.new' if link else ''}")]]

    return [
        Tool(
            "zodb-vault",
            ours,
            {
                "full": [[*vault, "create", "--full"]],
                "same": [[*vault, "create"]],
                "day": [[*vault, "create"]],
                "verify": [[*vault, "verify", "--level", "bytes"]],
                "restore": [[*vault, "restore", "--output", str(out), "--yes"]],
            },
            {},
            lambda: subprocess.run([*vault, "repository", "init"], check=True),
        ),
        Tool(
            "restic",
            root / "restic",
            {
                "full": [[*restic, "backup", str(site)]],
                "same": [[*restic, "backup", str(site)]],
                "day": [[*restic, "backup", str(site)]],
                "verify": [[*restic, "check", "--read-data"]],
                "restore": [[*restic, "restore", "latest", "--target", str(out)]],
            },
            quiet,
            lambda: subprocess.run([*restic, "init"], check=True, env={**os.environ, **quiet}),
        ),
        Tool(
            "borg",
            root / "borg",
            {
                job: [["borg", "create", "-C", "zstd,3", f"{borg}::{job}", str(site)]]
                for job in ("full", "same", "day")
            }
            | {
                "verify": [["borg", "check", "--verify-data", borg]],
                "restore": [["borg", "extract", f"{borg}::day-{DAYS - 1}"]],
            },
            quiet,
            lambda: subprocess.run(
                ["borg", "init", "-e", "none", borg], check=True, env={**os.environ, **quiet}
            ),
        ),
        Tool(
            "repozo+rsync",
            glued,
            {
                "full": glue("-F"),
                "same": [],
                "day": [],
                "verify": [[*repozo, "-V", "-r", str(glued / "storage")]],
                "restore": [
                    [*repozo, "-R", "-r", str(glued / "storage"), "-o", str(out / "Data.fs")],
                    ["rsync", "-a", f"{glued / 'blobs'}/", str(out / "blobs")],
                ],
            },
            {},
            lambda: (glued / "storage").mkdir(parents=True),
        ),
    ]


def glued_again(root: Path, dataset: str) -> list[list[str]]:
    """Return an incremental of the glued pair: repozo, and rsync against the blobs of last time."""
    site, glued = root / dataset, root / "repozo"
    repo = [
        sys.executable,
        "-m",
        "ZODB.scripts.repozo",
        "-B",
        "-Q",
        "-r",
        str(glued / "storage"),
        "-f",
        str(site / "Data.fs"),
    ]
    return [
        repo,
        [
            "rsync",
            "-a",
            "--link-dest",
            str(glued / "blobs"),
            f"{site / 'blobs'}/",
            str(glued / f"blobs.{time.time_ns()}"),
        ],
    ]


def run_job(job: str, every: Sequence[Tool], root: Path, dataset: str, number: int) -> dict[str, Run]:
    """Run a job once with every tool; borg wants a new name for each archive."""
    results = {}
    for tool in every:
        commands = (
            glued_again(root, dataset)
            if tool.name == "repozo+rsync" and job in ("same", "day")
            else tool.commands[job]
        )
        numbered = [
            [part.replace(f"::{job}", f"::{job}-{number}") for part in command] for command in commands
        ]
        if job in ("full", "verify"):
            settle()
        results[tool.name] = total([measured(command, tool.environment, root) for command in numbered])
    return results


def restore_round(every: Sequence[Tool], root: Path, number: int) -> dict[str, Run]:
    """Restore once with every tool, each time in another order, and delete everything again."""
    results, out = {}, root / "out"
    for n in range(len(every)):
        tool = every[(n + number) % len(every)]
        if tool.name != "zodb-vault":
            out.mkdir()
        settle()
        cwd = out if tool.name == "borg" else root
        results[tool.name] = total(
            [measured(command, tool.environment, cwd) for command in tool.commands["restore"]]
        )
        out.rename(root / f"out-{tool.name}")
    for tool in every:
        shutil.rmtree(root / f"out-{tool.name}")
    return results


def medians(rounds: Sequence[dict[str, Run]], every: Sequence[Tool]) -> dict[str, Run]:
    """Return the run with the median wall time of each tool, after printing it."""
    results = {}
    for tool in every:
        runs = sorted((one[tool.name] for one in rounds), key=lambda run: run.wall)
        results[tool.name] = run = runs[len(runs) // 2]
        spread = f"  ({', '.join(f'{one[tool.name].wall:.2f}' for one in rounds)})" if len(rounds) > 1 else ""
        print(
            f"  {tool.name:>14} {run.wall:8.2f} s  {run.cpu:8.2f} s CPU  {run.memory_mb:6.0f} MB{spread}",
            flush=True,
        )
    return results


def check(what: str, value: float, limit: float) -> bool:
    print(f"  {'met' if value <= limit else 'MISSED':>6}  {what}: {value:.3f} (at most {limit})")
    return value <= limit


def a_day(every: Sequence[Tool], root: Path, dataset: str, number: int) -> dict[str, Run]:
    """Back up what one more day has changed."""
    state = root / f"{dataset}.days"
    day = int(state.read_text()) + 1 if state.exists() else 1
    generate(root, "day", dataset, "--n", str(day))
    state.write_text(str(day))
    return run_job("day", every, root, dataset, number)


def smaller_site(root: Path, dataset: str, repeat: int) -> float | None:
    """Return the wall time of an unchanged run on a site a tenth of the size."""
    small = SMALLER.get(dataset)
    if small is None:
        return None
    if not (root / f"{small}.state").exists():
        generate(root, "make", small)
    with tempfile.TemporaryDirectory(dir=root) as place:
        tool = tools(root, small)[0]
        vault = [
            part.replace(str(root / "zodb-vault"), f"{place}/repository") for part in tool.commands["same"][0]
        ]
        subprocess.run([*vault[:-1], "repository", "init"], check=True)
        runs = [measured(vault, {}, root) for _ in range(repeat + 1)]
        return statistics.median(run.wall for run in runs[1:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=["S", "M", "L"], default="M")
    parser.add_argument(
        "--root",
        type=Path,
        help="where the data is made, kept and used again; default: a temporary directory",
    )
    parser.add_argument("--repeat", type=int, default=5, help="runs of the quick jobs; the median counts")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="zodb-vault-bench-"))
    try:
        return bench(root.absolute(), arguments.dataset, arguments.repeat)
    finally:
        if arguments.root is None:
            shutil.rmtree(root)


def bench(root: Path, dataset: str, repeat: int) -> int:
    root.mkdir(parents=True, exist_ok=True)
    for name in (
        "zodb-vault",
        "restic",
        "borg",
        "repozo",
        "out",
        "out-zodb-vault",
        "out-restic",
        "out-borg",
        "out-repozo+rsync",
    ):
        shutil.rmtree(root / name, ignore_errors=True)
    if not (root / f"{dataset}.state").exists():
        print(f"making dataset {dataset} in {root}", flush=True)
        generate(root, "make", dataset)
    every = tools(root, dataset)
    for tool in every:
        tool.before()
    print("full", flush=True)
    results = {"full": medians([run_job("full", every, root, dataset, 0)], every)}
    sizes = {tool.name: size_mb(tool.repository) for tool in every}
    print("  sizes: " + ", ".join(f"{name} {size:.0f} MB" for name, size in sizes.items()))
    print("same", flush=True)
    results["same"] = medians([run_job("same", every, root, dataset, n) for n in range(repeat)], every)
    print("day", flush=True)
    results["day"] = medians([a_day(every, root, dataset, n) for n in range(DAYS)], every)
    print("verify", flush=True)
    results["verify"] = medians([run_job("verify", every, root, dataset, 0)], every)
    print("restore", flush=True)
    rounds = []
    for n in range(ROUNDS):
        if n:
            os.sync()
            time.sleep(EXT4_PAUSE)
        rounds.append(restore_round(every, root, n))
    results["restore"] = medians(rounds, every)
    small = smaller_site(root, dataset, repeat)
    print(json.dumps({job: {name: vars(run) for name, run in runs.items()} for job, runs in results.items()}))
    return 0 if goals(results, sizes, small) else 1


def goals(results: dict[str, dict[str, Run]], sizes: dict[str, float], small: float | None) -> bool:
    """Compare with what the project promises; the limits are ratios of wall times in this run."""

    def ours(job: str) -> float:
        return results[job]["zodb-vault"].wall

    def best(job: str, *names: str) -> float:
        return min(
            run.wall
            for name, run in results[job].items()
            if name != "zodb-vault" and (not names or name in names)
        )

    print("goals")
    outcome = [
        check("nothing changed / borg", ours("same") / best("same", "borg"), 0.1),
        check("a day / best of the others", ours("day") / best("day"), 0.1),
        check("full / faster of restic and borg", ours("full") / best("full", "restic", "borg"), 1.0),
        check(
            "size / smaller of restic and borg",
            sizes["zodb-vault"] / min(sizes["restic"], sizes["borg"]),
            1.1,
        ),
        check("peak memory of a full backup, MB", results["full"]["zodb-vault"].memory_mb, MEMORY_LIMIT_MB),
        check("restore / best of the others", ours("restore") / best("restore"), 1.0),
    ]
    if small is not None:
        outcome.append(check("nothing changed / the same on a tenth of the site", ours("same") / small, 1.3))
    return all(outcome)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
