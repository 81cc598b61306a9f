"""A base model of a few seconds, shared by the tests of one process."""

from __future__ import annotations

import pytest
from tiny_base import SMALL

from compress.artifact import open_artifact, seal
from compress.stage import Job
from finetune.source import tiny


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("base")
    out, scratch = root / "out", root / "scratch"
    out.mkdir()
    scratch.mkdir()
    facts = tiny.TinySource().run(Job(params=SMALL, out=out, scratch=scratch, seed=3, threads=1))
    seal(out, kind="hf", stage="source.tiny", stage_version=1, params={}, inputs={}, facts=facts)
    return open_artifact(out)
