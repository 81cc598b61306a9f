"""What ``compress plan`` expected beside what a run took: a Markdown table of every stage.

    python benchmarks/plan.py configs/pipelines/demo.yaml work/runs/demo/run.lock.json [--work-dir work]

The plan is made over an empty store, as if nothing existed. The machine's speed is probed now, or read from the file
that an earlier probe left in ``--work-dir``: run it on the machine that ran the pipeline. Stages under SHORT seconds
may miss by so many seconds; all others, and every memory, by LIMIT. The exit code is 1 when one misses by more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from compress.config import read_config  # noqa: E402
from compress.machine import read_machine  # noqa: E402
from compress.pipeline.forecast import plan  # noqa: E402
from compress.pipeline.plan import build  # noqa: E402
from compress.pipeline.store import Store  # noqa: E402

LIMIT, SHORT = 0.25, 3.0


def within(planned: float, measured: float, short: float = 0.0) -> bool:
    """Whether an estimate is near enough."""
    return abs(planned - measured) <= max(LIMIT * measured, short if measured < short else 0.0)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--work-dir", type=Path, default=Path("work"))
    given = parser.parse_args()
    measured = json.loads(given.lock.read_text())["stages"]
    machine = read_machine(given.work_dir)
    with tempfile.TemporaryDirectory() as empty:
        planned = plan(build(read_config(given.config)), Store(Path(empty) / "store"))
    print("| stage | seconds planned / measured | ratio | peak RSS planned / measured, MB | ratio | |")
    print("|---|---:|---:|---:|---:|---|")
    misses = 0
    for stage in planned:
        run, seconds = measured.get(stage.node.id), stage.seconds(machine)
        if run is None or stage.needs is None or seconds is None:
            continue
        memory = stage.needs.ram_bytes
        near = within(seconds, run["seconds"], SHORT) and within(memory, run["peak_rss_bytes"])
        misses += not near
        cells = (f"{seconds:.1f} / {run['seconds']:.1f}", f"{seconds / max(run['seconds'], 1e-3):.2f}")
        cells += (f"{memory / 1e6:,.0f} / {run['peak_rss_bytes'] / 1e6:,.0f}", f"{memory / run['peak_rss_bytes']:.2f}")
        print(f"| {stage.node.id} ({stage.node.use}) | {' | '.join(cells)} | {'' if near else 'misses'} |")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
