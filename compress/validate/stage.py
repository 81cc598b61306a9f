"""The gate as a stage: every candidate in its own runtime against the baseline, on the same held-out items.

What is written::

    proof.json           the verdict and every number behind it (docs/validation.md); equal inputs give equal bytes
    cases.json           items in which baseline and candidate differ or both fail, by rule, with both replies
    replies/NAME.jsonl   what each model said, in the format of ``compress gate``;
                         NAME.enforced.jsonl what the rule guard let out
    before_after.json    a few dozen items with the replies of base, baseline and the smallest candidate
    measurements.json    latency, speed and memory, each candidate in a fresh process (outside the digest)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compress.costs import WORKER
from compress.errors import UsageError
from compress.json_files import write_json
from compress.outline import REPLY_TOKENS, Outline
from compress.stage import Job, JobOutline, Needs, Stage
from compress.validate.costs import LONGER, Asked, answers, guarded, scored, timed
from compress.validate.drift import REFERENCE_BYTES
from compress.validate.in_torch import BATCH, CACHE_BYTES, SLAB_BYTES
from compress.validate.params import ValidateParams
from compress.validate.runners import TORCH as IN_TORCH
from runtime.engine.backends import BACKENDS

LIBRARIES = 630_000_000
"""Bytes of transformers' model, tokenizer, oneDNN's kernels and the runtimes, and what they leave."""


class Validate(Stage[ValidateParams]):
    """Judge candidates; see the module's description."""

    Params = ValidateParams
    version = 13
    accepts = frozenset({"bundle", "gptq", "hf", *BACKENDS})
    produces = "proof"
    many = True
    uses = frozenset({"rules", "eval"})
    libraries = frozenset({"llama-cpp-python", "onnxruntime-genai", "torch", "transformers"})

    def requires(self, params: ValidateParams) -> frozenset[str]:
        """Rules and items alike."""
        return self.uses

    def outline(self, job: JobOutline[ValidateParams]) -> Outline:
        """The proof, and twice the replies of every model."""
        split, told = job.split("eval"), len(job.inputs) + 1
        ships = min((c.disk_bytes for c in job.inputs if c.kind in BACKENDS), default=0)
        return Outline("proof", 2 * told * (split.disk_bytes + 250 * split.rows), ships_bytes=ships)

    def needs(self, job: JobOutline[ValidateParams]) -> Needs:
        """As if every item were asked (``sequential`` asks fewer).

        Memory: one model in torch in float32 (its file mapped while it loads), the keys and values of a batch.

        Work: one pass of the baseline, some items again and in other wordings, one pass of each candidate, drift of
        all, the model before tuning to the token limit, and a process that times each.
        """
        from compress.validate.wording import WORDINGS

        p, baseline = job.params, job.refs["baseline"]
        model, asked = baseline.sizes, self._asked(job)
        drift = replace(asked, rows=min(asked.rows, p.drift_rows))
        most = REFERENCE_BYTES / (4 * model.shape.vocab)
        again = replace(asked, rows=min(asked.rows, p.again_rows))
        reworded = replace(asked, rows=len(WORDINGS) * min(again.rows, p.wording_rows))
        work = answers(model, again, in_torch=baseline.kind in IN_TORCH)
        work += answers(model, reworded, in_torch=baseline.kind in IN_TORCH)
        for outline in (baseline, *job.inputs):
            own, torch = outline.model or model, outline.kind in IN_TORCH
            work += answers(own, asked, in_torch=torch) + scored(own, drift, most) + guarded(asked)
            if p.bench_runs:
                work += timed(own, asked, p.bench_runs, in_torch=torch, kernel=outline.kind != "gptq")
        if "base" in job.refs:
            few = replace(asked, rows=min(asked.rows, p.base_rows), reply=p.max_tokens / LONGER)
            work += answers(job.refs["base"].model or model, few, in_torch=True)
        s = model.shape
        cache = min(CACHE_BYTES, BATCH * 8 * s.blocks * s.kv_heads * s.head_dim * (asked.longest + p.max_tokens))
        memory = (
            WORKER + LIBRARIES + (4 + model.weight_bytes) * model.parameters + 4 * model.head + cache + 2 * SLAB_BYTES
        )
        reference = min(REFERENCE_BYTES, 4 * drift.rows * drift.reply * s.vocab)
        return Needs(int(self.outline(job).disk_bytes + reference), int(memory), work)

    @staticmethod
    def _asked(job: JobOutline[ValidateParams]) -> Asked:
        """The items; replies are as long as those that were trained on, or else as the expected answers."""
        model, split, taught = job.refs["baseline"].sizes, job.split("eval"), job.split("train")
        lengths = split.lengths(model)
        reply = taught.lengths(model).reply if taught.rows else float(REPLY_TOKENS)
        return Asked(split.rows, lengths.prompt, min(reply, job.params.max_tokens), lengths.longest)

    def check(self, job: Job[ValidateParams]) -> None:
        if job.rules is None:
            raise UsageError("validate needs a rule file", next="name one under rules:, or give --rules FILE")
        if job.data is None or not (job.data.path / "eval.jsonl").is_file():
            raise UsageError("validate needs evaluation items", next="name them under data: eval:, or give --data FILE")
        for name in ("baseline", "base"):
            artifact = job.refs.get(name)
            if artifact is not None and artifact.kind not in self.accepts:
                kinds = ", ".join(sorted(self.accepts))
                what = f"{name} is a {artifact.kind} artifact, which does not answer prompts"
                raise UsageError(what, next=f"give one of these kinds: {kinds}")
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
        limits = {**job.params.margins.model_dump(), "baseline": job.params.max_baseline_violations}
        setting, heard = listen(job, setting, limits, ticker)
        proof, cases = build_proof(setting, limits, heard)
        write_json(job.out / "proof.json", proof)
        write_json(job.out / "cases.json", cases)
        write_json(job.out / "before_after.json", {"items": before_after(setting, proof, heard, job.params.samples)})
        write_replies(job.out / "replies", setting, [heard.baseline, *heard.candidates])
        write_json(job.out / "measurements.json", timings(job, setting, [heard.baseline, *heard.candidates], ticker))
        verdicts = {candidate["name"]: candidate["verdict"] for candidate in proof["candidates"]}
        facts = {key: proof[key] for key in ("verdict", "chosen", "n_items")}
        return {**facts, "candidates": verdicts}
