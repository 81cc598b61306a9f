"""The gate as a stage: every candidate in its own runtime against the baseline, on the same held-out items.

What is written::

    proof.json           the verdict and every number behind it (docs/validation.md); equal inputs give equal bytes
    replies/NAME.jsonl   what each model said, in the format of ``compress gate``;
                         NAME.enforced.jsonl what the rule guard let out
    before_after.json    a few dozen items with the replies of base, baseline and the smallest candidate
    measurements.json    latency, speed and memory, each candidate in a fresh process (outside the digest)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.errors import UsageError
from compress.json_files import write_json
from compress.stage import Job, Needs, Stage
from compress.validate.params import ValidateParams
from runtime.engine.backends import BACKENDS


class Validate(Stage[ValidateParams]):
    """Judge candidates; see the module's description."""

    Params = ValidateParams
    version = 3
    accepts = frozenset({"bundle", "gptq", "hf", *BACKENDS})
    produces = "proof"
    many = True
    uses = frozenset({"rules", "eval"})
    libraries = frozenset({"llama-cpp-python", "onnxruntime-genai", "torch", "transformers"})

    def needs(self, job: Job[ValidateParams]) -> Needs:
        from compress.validate.drift import REFERENCE_BYTES

        models = [*job.inputs, *job.refs.values()]
        largest = max((m.size_bytes() for m in models), default=0)
        return Needs(disk_bytes=REFERENCE_BYTES if job.params.drift_rows else 0, ram_bytes=5 * largest)

    def check(self, job: Job[ValidateParams]) -> None:
        if job.rules is None:
            raise UsageError("validate needs a rule file", next="name one under rules:, or give --rules FILE")
        if job.data is None or not (job.data.path / "eval.jsonl").is_file():
            raise UsageError("validate needs evaluation items", next="name them under data: eval:, or give --data FILE")
        for name in ("baseline", "base"):
            artifact = job.refs.get(name)
            if artifact is not None and artifact.kind not in self.accepts:
                raise UsageError(f"{name} is a {artifact.kind} artifact, which does not answer prompts")
        proved = job.refs.get("parity")
        if proved is not None and proved.kind != "parity":
            raise UsageError(f"parity is a {proved.kind} artifact", next="name an export.parity stage")

    def run(self, job: Job[ValidateParams]) -> Mapping[str, Any]:
        from compress.validate.listen import listen, make_setting, total_units
        from compress.validate.outputs import bench_units, timings, write_replies
        from compress.validate.progress import Ticker
        from compress.validate.proof import before_after, build_proof

        self.check(job)
        setting = make_setting(job)
        ticker = Ticker(job.progress, total_units(job, setting) + bench_units(job))
        heard = listen(job, setting, ticker)
        limits = {**job.params.margins.model_dump(), "baseline": job.params.max_baseline_violations}
        proof = build_proof(setting, limits, heard)
        write_json(job.out / "proof.json", proof)
        write_json(job.out / "before_after.json", {"items": before_after(setting, proof, heard, job.params.samples)})
        write_replies(job.out / "replies", setting, [heard.baseline, *heard.candidates])
        write_json(job.out / "measurements.json", timings(job, setting, [heard.baseline, *heard.candidates], ticker))
        verdicts = {candidate["name"]: candidate["verdict"] for candidate in proof["candidates"]}
        facts = {key: proof[key] for key in ("verdict", "chosen", "n_items")}
        return {**facts, "candidates": verdicts}
