"""Disks that fill, places that cannot be written, and a killed command: nothing half-written, nothing finished lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import nothing_left
from small_folder import write_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole") / "hf", hidden=64, ffn=96, heads=4, tied=False)


def start(*arguments: object, patch: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own."""
    code = f"{patch}\nfrom compress.cli import main\nif __name__ == '__main__':\n    main()\n"
    command = [sys.executable, "-c", code, "run", "export.gguf", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    settings = ["--with", "type=Q8_0", "--with", "imatrix=false"]
    return subprocess.Popen(command + settings, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def failed(process: subprocess.Popen[str], message: str, code: int = 1) -> str:
    _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    assert message in told
    assert "Traceback" not in told
    assert "unexpected" not in told
    return told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_under_the_stage(folder: Path, tmp_path: Path, small_disk: Path) -> None:
    """The estimate is silenced, as if another program had taken the space meanwhile."""
    patch = "import compress.pipeline.run as run; run.SPARE_DISK = -(1 << 40)"
    (small_disk / "full").write_bytes(bytes(200_000))
    arguments = ("--from", folder, "--out", tmp_path / "out", "--work-dir", small_disk)
    told = failed(start(*arguments, patch=patch), "No space left")
    assert "finished stages are kept" in told
    assert not (tmp_path / "out").exists()
    assert not [path for path in (small_disk / "store").iterdir() if not path.name.startswith(".")]


@pytest.mark.slow
def test_a_disk_too_small_is_refused_before_the_stage(folder: Path, tmp_path: Path, small_disk: Path) -> None:
    failed(start("--from", folder, "--out", tmp_path / "out", "--work-dir", small_disk), "too little disk")


@pytest.mark.slow
def test_a_disk_that_fills_under_the_result(folder: Path, tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "full").write_bytes(bytes(200_000))
    arguments = ("--from", folder, "--work-dir", tmp_path / "work", "--out")
    told = failed(start(*arguments, small_disk / "out"), "cannot be written: No space left on device")
    assert "the finished artifact is kept in" in told
    assert [path.name for path in small_disk.iterdir()] == ["full"]
    started = time.monotonic()
    assert start(*arguments, tmp_path / "out").wait(120) == 0
    assert (tmp_path / "out" / "model.gguf").is_file()
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(folder: Path, tmp_path: Path) -> None:
    patch = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    failed(
        start("--from", folder, "--out", tmp_path / "out", "--work-dir", tmp_path / "work", patch=patch),
        "File too large",
    )
    nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/sys/kernel/holdfast", "{file}/out"])
def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    out = place.format(file=tmp_path / "file")
    failed(start("--from", folder, "--out", out, "--work-dir", tmp_path / "work"), "cannot be written")
    failed(
        start("--from", folder, "--out", tmp_path / "x", "--work-dir", out), "check that the place exists and can be"
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_nothing_and_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    folder = write_model(tmp_path / "model", hidden=256, ffn=512, layers=24, heads=8)
    arguments = ("--from", folder, "--work-dir", tmp_path / "work", "--out")
    process = start(*arguments, tmp_path / "out")
    part = "work/store/.partial/*/scratch/model.gguf.part"
    while process.poll() is None and not [p for p in tmp_path.glob(part) if p.stat().st_size > 2**20]:
        time.sleep(0.001)
    process.send_signal(how)
    assert process.wait(60) == -how
    assert list(tmp_path.glob(part)), "it was killed in the middle"
    nothing_left(tmp_path)
    assert start(*arguments, tmp_path / "out").wait(120) == 0
    assert start("--from", folder, "--work-dir", tmp_path / "other", "--out", tmp_path / "fresh").wait(120) == 0
    assert (tmp_path / "out/model.gguf").read_bytes() == (tmp_path / "fresh/model.gguf").read_bytes()


@pytest.mark.slow
def test_a_warning_of_the_stage_reaches_the_terminal(folder: Path, tmp_path: Path) -> None:
    silent = Path(shutil.copytree(folder, tmp_path / "silent"))
    settings = json.loads((silent / "tokenizer_config.json").read_text()) | {"chat_template": None}
    (silent / "tokenizer_config.json").write_text(json.dumps(settings))
    process = start("--from", silent, "--out", tmp_path / "out", "--work-dir", tmp_path / "work")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0
    assert told.count("warning: ") == 1
    assert "has no chat template" in told
