"""The engine on a small real pipeline: prune, GPTQ and GGUF of a random two-block Llama."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from compress.cli import single

ROOT = Path(__file__).parents[3]


def write_pipeline(folder, model, rows, **prune):
    """A pipeline file whose stages take a second or so each."""
    value = {
        "version": 1,
        "name": "small",
        "seed": 3,
        "source": {"path": str(model)},
        "data": {"train": str(rows), "calibration": str(rows)},
        "stages": [
            {
                "id": "slim",
                "use": "prune.width",
                "with": {"ffn": 0.5, "calibration_tokens": 1024, **prune},
            },
            {"id": "gptq", "use": "quantize.gptq", "from": "slim", "with": {"bits": 4, "calibration_tokens": 1024}},
            {"id": "gguf", "use": "export.gguf", "from": "slim", "with": {"type": "Q8_0", "calibration_tokens": 1024}},
        ],
    }
    (folder / "p.yaml").write_text(yaml.safe_dump(value, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory, tiny_llama, chat_jsonl):
    return write_pipeline(tmp_path_factory.mktemp("pipelines"), tiny_llama, chat_jsonl, recover=None)


@pytest.fixture(scope="session")
def calm(small):
    """What an undisturbed run says; its store is in ``small / "calm"``."""
    return finish(start(small, "calm"))


@pytest.fixture
def project(small, tmp_path):
    shutil.copyfile(small / "p.yaml", tmp_path / "p.yaml")
    return tmp_path


@pytest.fixture
def done(calm, small, project):
    """The project with a finished work folder, ``done``."""
    shutil.copytree(small / "calm", project / "done")
    return project


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "compress.cli", *arguments]


def start(project: Path, work: str, *extra: str) -> subprocess.Popen:
    return subprocess.Popen(
        command("pipeline", str(project / "p.yaml"), "--work-dir", str(project / work), "--json", *extra),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen_to_ctrl_c,
    )


def listen_to_ctrl_c() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and these tests may run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


def digests(state: dict) -> dict[str, str]:
    return {name: stage["digest"] for name, stage in state["stages"].items()}


def cached(state: dict) -> set[str]:
    return {name for name, stage in state["stages"].items() if stage["cached"]}


def test_two_at_once_on_one_store(project, calm):
    both = [start(project, "a"), start(project, "a")]
    first, second = (finish(process) for process in both)
    assert digests(first) == digests(second) == digests(calm)


def test_only_what_changed_runs_again(done, calm):
    again = finish(start(done, "done"))
    assert digests(again) == digests(calm)
    assert cached(again) == set(again["stages"])
    changed = finish(start(done, "done", "--set", "gptq.bits=8"))
    assert set(changed["stages"]) - cached(changed) == {"gptq"}


def kill_somewhere(project: Path, work: str, rng: random.Random, longest: float) -> None:
    process = start(project, work)
    time.sleep(rng.uniform(0.1, longest))
    if rng.random() < 0.5:
        process.kill()  # the children notice that their parent is gone
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def endure(project: Path, calm: dict, kills: int) -> None:
    longest = 1.5 * sum(stage["seconds"] for stage in calm["stages"].values()) + 2
    rng = random.Random(11)
    for number in range(kills):
        if number % 5 == 0:  # a finished store has nothing left to interrupt
            work = f"rough-{number}"
        kill_somewhere(project, work, rng, longest)
        if number % 5 == 4 or number == kills - 1:
            assert digests(finish(start(project, work))) == digests(calm)


def test_kill_and_rerun_gives_the_same_bytes(project, calm):
    endure(project, calm, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_many_moments_and_rerun_gives_the_same_bytes(tmp_path, tiny_llama, chat_jsonl):
    write_pipeline(tmp_path, tiny_llama, chat_jsonl, recover={"distill_steps": 6})
    endure(tmp_path, finish(start(tmp_path, "calm")), 25)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on(project, sign, code):
    process = start(project, "c")
    lock = project / "c" / "runs" / "small" / "run.lock.json"
    deadline = time.monotonic() + 60
    while not lock.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.splitlines()[-1].endswith("Run the same command again to go on.")
    assert "Traceback" not in err


def test_damaged_artifact_is_named(done, calm):
    folder = done / "done" / "store" / calm["stages"]["slim"]["key"]
    weights = next(folder.glob("*.safetensors"))
    weights.chmod(0o644)
    with open(weights, "r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last[0] ^ 1]))
    process = start(done, "done", "--set", "gptq.bits=8")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert weights.name in err
    assert "corrupt" in err
    assert "Traceback" not in err


def test_full_disk_is_told_before_the_first_stage(project):
    from compress.config import read_config
    from compress.errors import ResourceError
    from compress.pipeline.forecast import check_resources, plan
    from compress.pipeline.plan import build
    from compress.pipeline.store import Store
    from compress.stage import Needs

    planned = plan(build(read_config(project / "p.yaml")), Store(project / "e" / "store"))
    check_resources(planned, project)
    greedy = [replace(planned[0], needs=Needs(disk_bytes=10**18)), *planned[1:]]
    with pytest.raises(ResourceError, match="too little disk"):
        check_resources(greedy, project)
    greedy = [replace(planned[0], needs=Needs(ram_bytes=10**18)), *planned[1:]]
    with pytest.raises(ResourceError, match=r"too little memory for stage 'source'"):
        check_resources(greedy, project)


@pytest.mark.parametrize("name", ["chat", "serve", "verify"])
def test_the_runtimes_commands_have_the_same_options_here(name: str) -> None:
    from typer.main import get_command

    from compress.cli.app import app
    from runtime.cli import app as holdfast

    ours, theirs = (
        {option.name: (option.opts, option.secondary_opts, option.default) for option in command.params}
        for command in (get_command(line).commands[name] for line in (app, holdfast))
    )
    assert ours.pop("debug")[0] == ["--debug"]
    assert ours == theirs


def test_rows_may_stand_in_a_folder(tmp_path):
    nodes = {}
    assert single._data_node({"train": tmp_path}, None, {}, nodes) == "data"
    assert nodes["data"].params.train == tmp_path
