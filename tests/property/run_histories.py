"""Runs random histories on all processors, and prints the seed and the steps of every one that fails.

``python tests/property/run_histories.py --count 5000 --first 1000``; the exit status is 1 when one failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "src")]


def run(seed: int) -> tuple[int, dict[str, int], str]:
    """Run one history; return its seed, what happened in it, and how it failed."""
    import history_with_backups
    import pytest

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix=f"history-{seed}-") as directory:
        try:
            return seed, history_with_backups.run(Path(directory), seed), ""
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  reported with all others at the end
            return seed, {}, traceback.format_exc()


def main() -> int:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    begin, happened, failed = time.monotonic(), Counter[str](), []
    with ProcessPoolExecutor(options.processes) as pool:
        for seed, events, failure in pool.map(
            run, range(options.first, options.first + options.count), chunksize=4
        ):
            happened.update(events)
            if failure:
                failed.append(seed)
                print(f"--- seed {seed}\n{failure}", flush=True)
    print(
        f"{options.count} histories in {time.monotonic() - begin:.0f} s: "
        + ", ".join(f"{what} {n}" for what, n in sorted(happened.items()))
    )
    print(f"failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
