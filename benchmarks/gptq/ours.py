"""Calibrate and quantize a folder: ours.py MODEL CALIBRATION.jsonl OUT BITS GROUP WINDOWS LENGTH [key=value…]

``key=value``: parameters of ``quantize.gptq``, values in JSON. Without need for the shared pass there is none.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from compress.artifact import open_artifact, seal
from compress.registry import load_stage
from compress.stage import Job


def main() -> None:
    """One stage or two; the seconds of each on stdout as JSON, imports apart, as the peer's."""
    import torch

    torch.set_num_threads(2)
    model, text, out, bits, group, windows, length, *rest = sys.argv[1:]
    common = {"calibration": text, "calibration_tokens": int(windows) * int(length), "calibration_length": int(length)}
    source = open_artifact(Path(model))
    seconds, passed = {}, None
    own = {key: json.loads(value) for key, _, value in (item.partition("=") for item in rest)}
    own |= {"bits": int(bits), "group_size": int(group)}
    gptq = load_stage("quantize.gptq")
    shared = gptq.reads_calibration(gptq.Params(**common, **own))
    for name, extra in [("calibrate", {}), ("quantize.gptq", own)][0 if shared else 1 :]:
        stage = load_stage(name)
        folder = Path(out) / name
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            job = Job(
                params=stage.Params(**common, **extra),
                out=folder,
                scratch=Path(scratch),
                inputs=(source,),
                calibration=passed,
            )
            started = time.perf_counter()
            facts = stage.run(job)
            seconds[name] = round(time.perf_counter() - started, 2)
        passed = seal(folder, kind=stage.produces, stage=name, stage_version=1, params={}, inputs={}, facts=facts)
    sys.stdout.write(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
