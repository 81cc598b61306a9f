"""Running one stage in a test, as the pipeline would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.artifact import Artifact, open_artifact, seal
from compress.registry import load_stage
from compress.stage import Job


def run_stage(
    name: str, source: Path, out: Path, *, scratch: Path | None = None, seed: int = 17, **rest: Any
) -> Artifact:
    """Run stage ``name`` on the model folder ``source`` and the artifacts ``more`` into ``out``; ``data`` and ``pass_``
    go to the job."""
    stage = load_stage(name)
    out.mkdir(parents=True)
    scratch = scratch or out.with_name(out.name + ".scratch")
    scratch.mkdir(exist_ok=True)
    given = {key: rest.pop(key) for key in ("data", "progress") if key in rest}
    if "pass_" in rest:
        given["calibration"] = rest.pop("pass_")
    inputs = (open_artifact(source), *rest.pop("more", ()))
    params = stage.Params(**rest)
    names = tuple(artifact.path.name for artifact in inputs)
    job = Job(params=params, out=out, scratch=scratch, inputs=inputs, names=names, seed=seed, **given)
    stage.check(job)
    facts = stage.run(job)
    return seal(
        out,
        kind=stage.produces,
        stage=name,
        stage_version=stage.version,
        params=params.model_dump(mode="json"),
        inputs={},
        facts=facts,
    )
