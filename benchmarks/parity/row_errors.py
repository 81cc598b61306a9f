"""Row errors of real exports, and the bounds that follow for ``export.parity``.

    python benchmarks/parity/row_errors.py measure OUT.jsonl MODEL WAY GGUF [GGUF …]
    python benchmarks/parity/row_errors.py bounds OUT.jsonl

``measure`` adds one line for each tensor of the files (their model is the folder MODEL, WAY says how errors were
treated: plain, imatrix, shared, upstream): type, rows, the middle row and the largest row errors. ``bounds`` prints for
every type and for rounded and fed exports what was seen, and the error that one export in 1,000 is expected to exceed.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from export.checkpoint import Checkpoint, open_checkpoint
from export.parity.weights import FED_ROW_ERROR, ROW_ERROR, read_gguf, row_errors, source_of

TOP = 32
"""Largest row errors of a tensor that are written down."""
ALARM = 1e-3
"""Exports that may exceed a bound though nothing is wrong."""


def measured(reference: Checkpoint, path: Path) -> Iterator[dict[str, object]]:
    """One record for each quantized tensor of a file."""
    for stored in read_gguf(path, reference):
        if stored.kind == "F32":
            continue
        errors = np.sort(row_errors(stored.values, source_of(reference, stored.name)))
        top = [float(f"{error:.4g}") for error in errors[::-1][:TOP]]
        yield {"name": stored.name, "kind": stored.kind, "rows": len(errors), "middle": top_of(errors, 0.5), "top": top}


def top_of(errors: np.ndarray, share: float) -> float:
    """A quantile with four digits."""
    return float(f"{np.quantile(errors, share):.4g}")


def measure(out: Path, model: Path, way: str, files: Sequence[Path]) -> None:
    """Append to ``out``."""
    reference = open_checkpoint(model)
    with open(out, "a", encoding="utf-8") as handle:
        for path in files:
            for record in measured(reference, path):
                handle.write(json.dumps({"model": model.name, "file": str(path), "way": way, **record}) + "\n")


def exceeded(largest: Sequence[float], share: float) -> float:
    """The value that a share of exports exceeds, by a Gumbel law through the largest row errors of single exports
    (method of moments: scale = deviation · √6 / π, place = mean - 0.5772 · scale; the maximum over very many rows
    with an exponential tail follows it: Gumbel, Statistics of Extremes, 1958). Infinite with fewer than three."""
    if len(largest) < 3:
        return math.inf
    scale = float(np.std(largest, ddof=1)) * math.sqrt(6) / math.pi
    return float(np.mean(largest)) - 0.5772 * scale - scale * math.log(-math.log1p(-share))


def bounds(path: Path) -> None:
    """Print the table."""
    rows: dict[tuple[bool, str], list[dict[str, object]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        rows[record["way"] in ("shared", "upstream"), record["kind"]].append(record)
    print(
        "| errors | type | exports | tensors | rows | largest row | 1 of 1,000 exports | bound | middle row | bound |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for (fed, kind), records in sorted(rows.items()):
        largest: dict[str, float] = defaultdict(float)
        for record in records:
            file = str(record["file"])
            largest[file] = max(largest[file], float(record["top"][0]))  # type: ignore[index]
        limit = FED_ROW_ERROR.get(kind, ROW_ERROR[kind]) if fed else ROW_ERROR[kind]
        middle = max(float(record["middle"]) for record in records)  # type: ignore[arg-type]
        count = sum(int(record["rows"]) for record in records)  # type: ignore[call-overload]
        far = exceeded(list(largest.values()), ALARM)
        print(
            f"| {'fed back' if fed else 'rounded'} | {kind} | {len(largest)} | {len(records)} | {count} | "
            f"{max(largest.values()):.3f} | {far:.3f} | {limit:g} | {middle:.3f} | {ROW_ERROR[kind]:g} |"
        )


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], [Path(name) for name in sys.argv[5:]])
    else:
        bounds(Path(sys.argv[2]))
