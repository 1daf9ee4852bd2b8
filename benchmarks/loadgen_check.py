"""Whether MLPerf LoadGen's SingleStream finds the same p50 and p90 as our scenario `single`; JSON out.

    python benchmarks/loadgen_check.py bundles/milk-ov [--seconds 10] [--blocks 4] [--out results/loadgen.json]

LoadGen is no dependency: `pip install mlcommons-loadgen` where its wheel exists (x86-64). Without it the result says
so and nothing is measured. Ends with 1 when the two differ by more than 3 %.
"""

import argparse
from pathlib import Path

from edgeskin import files
from edgeskin.backends import usable_cores
from edgeskin.benchmark import environment, loadgen
from edgeskin.errors import EdgeskinError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="0: every core this process may use")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each block")
    parser.add_argument("--blocks", type=int, default=loadgen.BLOCKS, help="of ours, and as many of LoadGen's")
    parser.add_argument("--mode", choices=("pair", "dermoscopic"), default="pair")
    parser.add_argument("--routes", nargs="+", choices=("network", "decision"), default=["network", "decision"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.seconds <= 0 or given.blocks < 1:
        parser.error("seconds and blocks are above zero")
    threads = given.threads or usable_cores()
    absent = loadgen.unavailable()
    checks = []
    try:
        for route in [] if absent else given.routes:
            checks.append(
                loadgen.cross_check(
                    given.bundle, threads=threads, seconds=given.seconds, mode=given.mode, route=route,
                    blocks=given.blocks,
                )
            )  # fmt: skip
    except EdgeskinError as error:
        raise SystemExit(error.line()) from None
    result = {
        "what": "LoadGen SingleStream beside scenario single, blocks in turn; ratio: ours over LoadGen's",
        "absent": absent or "",
        "seconds_a_block": given.seconds,
        "checks": [check.to_json() for check in checks],
        "environment": environment.record(threads=threads).to_json(),
    }
    text = files.pretty_json(result)
    if given.out:
        files.write_atomic(given.out, text)
    print(text, end="")
    return 0 if all(check.agree for check in checks) else 1


if __name__ == "__main__":
    raise SystemExit(main())
