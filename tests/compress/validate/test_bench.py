import subprocess
import sys
from pathlib import Path

import pytest

from compress.artifact import open_artifact
from compress.errors import ArtifactError
from compress.validate.bench import bench, measure, versions


def test_a_model_is_measured_in_a_process_of_its_own(tiny_hf: Path) -> None:
    told: list[tuple[int, int]] = []
    result = bench(tiny_hf, runs=2, max_tokens=6, threads=1, progress=lambda *at: told.append(at))
    assert told == [(n, 5) for n in range(5)], "two replies and three long prompts"
    assert result["size_bytes"] == open_artifact(tiny_hf).size_bytes()
    assert 0 < result["ttft_ms"] <= result["ttft_p95_ms"] < 60_000
    assert result["tokens_per_s"] > 0
    assert result["prefill_tokens_per_s"] > 0
    assert result["load_s"] > 0
    assert result["peak_rss_bytes"] > 50_000_000, "torch alone takes more"
    assert set(result["versions"]) == {"python", "torch", "transformers"}
    assert result["ttft_cached_ms"] is None, "torch keeps no prefix"


def test_timings_of_a_format_without_a_kernel_are_blank(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.validate.in_torch import HfRunner

    monkeypatch.setattr(HfRunner, "timed", False)
    monkeypatch.setattr(HfRunner, "probe", None)  # no time is spent on what is not told
    job = {"kind": "hf", "path": str(tiny_hf), "prompts": [[{"role": "user", "content": "hi"}]], "runs": 1}
    result = measure({**job, "max_tokens": 2, "threads": 1})
    assert result["ttft_ms"] is result["tokens_per_s"] is result["prefill_tokens_per_s"] is None
    assert result["peak_rss_bytes"] > 0


def test_what_kills_the_child_is_told(tiny_hf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="could not be measured: "):
        bench(broken)


def test_what_is_wrong_with_a_model_is_told_as_everywhere(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match=r"cut\.gguf is not a valid GGUF file"):
        bench(tmp_path / "cut.gguf")


def test_measuring_a_gguf_imports_no_torch() -> None:
    code = (
        "import sys, compress.validate.bench, compress.validate.runners, runtime.session\n"
        "print([name for name in ('torch', 'transformers', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "torch" not in versions("gguf")
