"""``python -m benchmarks [name ...]``: run the named benchmarks, or all."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback

NAMES = ("head_table", "influence_table", "patching", "neuron_scores", "recording", "growth", "generation", "plan")
CRASHED, MISSED = 1, 3
"""Exit codes: Python itself ends with 1 after an error and argparse with 2, so that a missed target is neither."""


def main() -> int:
    """Run and print.

    Returns:
        0, `MISSED` if a target was missed, `CRASHED` if a benchmark has no result. The others run all the same.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="name", help=", ".join(NAMES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs of each benchmark")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Threads that wait must not spin: on shared cores they would take the time that others, and they, need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(options.threads)
    missed = crashed = False
    for name in options.names or NAMES:
        try:
            for comparison in importlib.import_module(f"benchmarks.{name}").run(options.pairs):
                comparison.report()
                sys.stdout.flush()
                missed |= not comparison.met
        except Exception:
            crashed = True
            traceback.print_exc()
            print(f"{name}: CRASHED", flush=True)
    return CRASHED if crashed else MISSED if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
