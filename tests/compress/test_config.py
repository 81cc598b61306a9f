"""Bad pipeline files: one clear message each, all problems at once, exit code 2, no traceback."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from compress.config import apply_override, assigned, explain, parse_assignment, read_config
from compress.errors import ConfigError, UsageError
from compress.pipeline.plan import build
from compress.registry import load_stage

ROOT = Path(__file__).parents[2]
GOOD = {
    "version": 1,
    "name": "good",
    "seed": 3,
    "source": {"tiny": {}},
    "rules": str(ROOT / "configs/rules/customer_service.yaml"),
    "data": {"world": {}},
    "stages": [
        {"id": "tune", "use": "finetune.sft", "with": {"method": "lora", "rank": 8}},
        {"id": "slim", "use": "prune.width", "from": "tune", "with": {"ffn": 0.25}},
        {"id": "gguf", "use": "export.gguf", "from": "slim", "matrix": {"type": ["Q8_0", "Q4_K_M"]}},
        {"id": "proof", "use": "validate", "from": ["gguf"], "with": {"baseline": "tune"}},
        {"id": "ship", "use": "export.bundle", "from": "proof"},
    ],
}


def write(tmp_path, value) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
    return path


def problems(path) -> list[str]:
    with pytest.raises(UsageError) as caught:
        build(read_config(path))
    return list(getattr(caught.value, "problems", [caught.value.what]))


def changed(*path, to=None, drop=False):
    value = yaml.safe_load(yaml.safe_dump(GOOD))
    target = value
    for part in path[:-1]:
        target = target[part]
    if drop:
        del target[path[-1]]
    else:
        target[path[-1]] = to
    return value


BAD = [
    ("unknown top key", changed("sead", to=1), "unknown key 'sead' (did you mean 'seed'?)"),
    ("no version", changed("version", drop=True), "'version' is missing"),
    ("other version", changed("version", to=2), "version"),
    ("no name", changed("name", drop=True), "'name' is missing"),
    ("name with slash", changed("name", to="../x"), "name"),
    ("name is a list", changed("name", to=["x"]), "name"),
    ("negative seed", changed("seed", to=-1), "seed"),
    ("seed is text", changed("seed", to="seven"), "seed"),
    ("seed too large", changed("seed", to=2**40), "seed"),
    ("no source", changed("source", drop=True), "'source' is missing"),
    ("empty source", changed("source", to={}), "source"),
    ("two sources", changed("source", to={"tiny": {}, "hf": {}}), "cannot stand beside it"),
    ("source key of another source", changed("source", to={"path": ".", "revision": "x"}), "unknown key"),
    ("unknown source", changed("source", to={"tinny": {}}), "unknown source 'tinny' (did you mean 'tiny'?)"),
    ("unknown source key", changed("source", to={"tiny": {"layrs": 2}}), "did you mean 'layers'?"),
    ("source path missing", changed("source", to={"path": "nowhere/model"}), "does not exist"),
    ("hub source without name", changed("source", to={"hf": {}}), "is missing"),
    ("rules missing", changed("rules", to="nowhere.yaml"), "rule file nowhere.yaml does not exist"),
    ("rules is a number", changed("rules", to=5), "rules"),
    ("rules is a folder", changed("rules", to=str(ROOT / "configs")), "does not exist"),
    ("no rules for the gate", changed("rules", drop=True), "needs a rule file"),
    ("no data", changed("data", drop=True), "set data:"),
    ("no rows to ask", changed("data", to={"train": "README.md"}), "set eval: under data:"),
    ("unknown data key", changed("data", to={"training": "x.jsonl"}), "did you mean 'train'?"),
    ("data file missing", changed("data", to={"train": "nowhere.jsonl"}), "does not exist"),
    ("data is a list", changed("data", to=["x"]), "data"),
    ("unknown world key", changed("data", to={"world": {"evals": 3}}), "unknown key"),
    ("no stages", changed("stages", drop=True), "'stages' is missing"),
    ("empty stages", changed("stages", to=[]), "stages"),
    ("stage without id", changed("stages", 0, "id", drop=True), "'stages.0.id' is missing"),
    ("stage without use", changed("stages", 0, "use", drop=True), "'stages.0.use' is missing"),
    ("bad id", changed("stages", 0, "id", to="a b"), "stages.0.id"),
    ("reserved id", changed("stages", 0, "id", to="source"), "is reserved"),
    ("same id twice", changed("stages", 1, "id", to="tune"), "is used twice"),
    ("unknown stage", changed("stages", 1, "use", to="prune.widht"), "did you mean 'prune.width'?"),
    ("source as a stage", changed("stages", 1, "use", to="source.tiny"), "belongs under source:"),
    ("unknown stage key", changed("stages", 0, "wiht", to={}), "did you mean 'with'?"),
    ("unknown parameter", changed("stages", 0, "with", to={"rnk": 8}), "did you mean 'rank'?"),
    ("parameter of the wrong type", changed("stages", 0, "with", to={"rank": "eight"}), "stages.0.with.rank"),
    ("parameter out of range", changed("stages", 1, "with", to={"ffn": 1.5}), "stages.1.with.ffn"),
    ("parameters are a list", changed("stages", 0, "with", to=[1]), "stages.0.with"),
    ("a parameter's longer name", changed("stages", 0, "with", to={"learning_rate": 1}), "did you mean 'rate'?"),
    ("unknown parent", changed("stages", 1, "from", to="tunne"), "no stage 'tunne' (did you mean 'tune'?)"),
    ("parent of the wrong kind", changed("stages", 1, "from", to="gguf"), "wait for each other"),
    ("two parents where one fits", changed("stages", 2, "from", to=["tune", "slim"]), "takes one input"),
    ("bundle of an unproved folder", changed("stages", 4, "from", to="slim"), "cannot read 'slim', a hf artifact"),
    ("cycle", changed("stages", 0, "from", to="slim"), "wait for each other (a cycle)"),
    (
        "unknown baseline",
        changed("stages", 3, "with", to={"baseline": "tuned"}),
        "no stage 'tuned' (did you mean 'tune'?)",
    ),
    ("baseline names many", changed("stages", 3, "with", to={"baseline": "gguf"}), "name one"),
    ("no baseline", changed("stages", 3, "with", to={}), "baseline"),
    ("unknown GGUF type", changed("stages", 2, "matrix", to={"type": ["Q4_X"]}), "type: unknown type; known: F32"),
    ("matrix without values", changed("stages", 2, "matrix", to={"type": []}), "has no values"),
    ("matrix of a scalar", changed("stages", 2, "matrix", to={"type": "Q8_0"}), "matrix"),
    ("matrix of an unknown key", changed("stages", 2, "matrix", to={"typo": ["Q8_0"]}), "unknown key"),
    ("matrix and with", changed("stages", 2, "with", to={"type": "Q8_0"}), "both matrix and with"),
    ("not a mapping", "- a\n- b\n", "must hold a mapping"),
    ("empty file", "", "must hold a mapping"),
    ("not YAML", "a: [1, 2\nb: 3\n", "not valid YAML"),
    ("a key twice", "version: 1\nversion: 1\n", "stands twice"),
    ("an alias", "a: &x [1]\nb: *x\n", "aliases"),
    ("a Python object", "a: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ("a key that is a list", "? [1, 2]\n: 3\n", "plain text"),
    ("a tab", "version:\t1\n\tname: x\n", "not valid YAML"),
]


@pytest.mark.parametrize(("value", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_config_is_explained_with_its_line(tmp_path, value, expected):
    path = write(tmp_path, value)
    found = problems(path)
    assert any(expected in problem for problem in found), found
    assert all(problem.startswith(f"{path}:") for problem in found), found


NEEDS_DATA = [
    ("export.gguf", {}, "calibration data is needed"),
    ("export.gguf", {"type": "F16"}, None),
    ("export.gguf", {"imatrix": False}, None),
    ("export.onnx", {}, None),
    ("prune.sparse", {"method": "magnitude"}, None),
    ("prune.sparse", {}, "calibration data is needed"),
    ("prune.width", {"method": "magnitude", "compensate": False}, "prune.width reads train data"),
    ("prune.width", {"method": "magnitude", "compensate": False, "ffn": 0.05}, None),
    ("prune.width", {"method": "magnitude", "compensate": False, "recover": None}, None),
    ("prune.depth", {"method": "perplexity", "recover": None}, "prune.depth reads calibration data"),
    ("prune.depth", {"method": "random", "blocks": 2}, "prune.depth reads train data"),
    ("prune.depth", {"method": "random", "recover": None}, None),
    ("quantize.gptq", {"upstream": True}, "quantize.gptq reads calibration data"),
    ("export.parity", {}, "export.parity reads eval data"),
    ("finetune.sft", {}, "finetune.sft reads train data"),
]


@pytest.mark.parametrize(("use", "given", "problem"), NEEDS_DATA)
def test_data_is_asked_for_where_a_stage_cannot_do_without(tmp_path, use, given, problem):
    stages = [{"id": "it", "use": use, "from": "source", "with": given}]
    path = write(tmp_path, {"version": 1, "name": "bare", "source": {"tiny": {}}, "stages": stages})
    if problem is None:
        assert "it" in build(read_config(path)).nodes
    else:
        assert [problem in found for found in problems(path)] == [True], problems(path)


def test_all_problems_are_reported_at_once(tmp_path):
    value = changed("stages", 0, "with", to={"rnk": 8, "epochs": "two"})
    value["rules"] = "nowhere.yaml"
    value["stages"][1]["from"] = "tunne"
    found = problems(write(tmp_path, value))
    assert len(found) == 4, found


def test_not_text(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path)


def test_command_ends_with_two_and_no_traceback(tmp_path):
    path = write(tmp_path, changed("sead", to=1))
    done = subprocess.run(
        [sys.executable, "-m", "compress.cli", "plan", str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "did you mean 'seed'?" in done.stderr
    assert f"{path}:" in done.stderr


def test_good_config_builds_its_graph(tmp_path):
    graph = build(read_config(write(tmp_path, GOOD)))
    assert list(graph.nodes)[:2] == ["source", "data"]
    assert {"gguf-Q8_0", "gguf-Q4_K_M", "calibrate-tune", "calibrate-slim"} <= set(graph.nodes)
    assert graph.nodes["proof"].parents == ("gguf-Q8_0", "gguf-Q4_K_M")
    assert graph.nodes["proof"].refs == {"baseline": "tune"}
    assert graph.nodes["gguf-Q8_0"].calibration == graph.nodes["gguf-Q4_K_M"].calibration == "calibrate-slim"
    order = list(graph.nodes)
    assert all(order.index(up) < order.index(name) for name, node in graph.nodes.items() for up in node.upstream())


def test_overrides(tmp_path):
    path = write(tmp_path, GOOD)
    config = read_config(path, ["seed=9", "tune.rank=4", "stages.slim.with.ffn=0.5", "data.world.train=10"])
    assert config.spec.seed == 9
    assert config.spec.stages[0].with_["rank"] == 4
    assert config.spec.stages[1].with_["ffn"] == 0.5
    assert config.spec.data == {"world": {"train": 10}}


@pytest.mark.parametrize("bad", ["seed", "=3", "sead=3", "name.x=3", "stages.nope.with.x=1", "tune={"])
def test_bad_overrides(tmp_path, bad):
    with pytest.raises(UsageError):
        apply_override(yaml.safe_load(yaml.safe_dump(GOOD)), bad)


def test_values_that_do_not_go_together_are_told_without_all_the_others():
    params = load_stage("finetune.sft").Params
    given = {"method": "qlora", "adapter": {"kind": "pissa"}, "steps": 4000, "batch": 64, "max_length": 2048}
    with pytest.raises(ValidationError) as caught:
        params.model_validate(given)
    found = explain(caught.value, params, lambda place: "--with")
    assert found == ["--with: adapter.kind pissa needs method: lora"]


def test_names_with_dots_lead_into_parameters():
    given = ["rate=1", "adapter={kind: dora}", "adapter.rank=4", "validation.share=.2", "rate=2"]
    assert assigned(given) == {"rate": 2, "adapter": {"kind": "dora", "rank": 4}, "validation": {"share": 0.2}}
    with pytest.raises(UsageError, match="adapter has a value that has no parts"):
        assigned(["adapter=lora", "adapter.kind=lora"])
    with pytest.raises(UsageError, match=r"no space behind a colon, so 'share:0\.2' is one word") as caught:
        assigned(["validation={share:0.2,every:2}"])
    assert caught.value.next == "write {share: 0.2,every: 2}"


def test_assignment_values_are_yaml():
    assert parse_assignment("a=[1, 2]") == ("a", [1, 2])
    assert parse_assignment("a=") == ("a", "")
    assert parse_assignment("a=b=c") == ("a", "b=c")


def test_plan_refuses_an_unknown_architecture_before_anything_runs(tmp_path, tiny_llama, chat_jsonl):
    from compress.errors import UnsupportedArchitecture
    from compress.pipeline.forecast import plan
    from compress.pipeline.store import Store

    shutil.copytree(tiny_llama, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    value = changed("source", to={"path": str(tmp_path / "model")}) | {"data": {"train": str(chat_jsonl)}}
    value["stages"] = [*value["stages"][:1], {"id": "slim", "use": "prune.width", "with": {"ffn": 0.5}}]
    graph = build(read_config(write(tmp_path, value)))
    assert [stage.state for stage in plan(graph, Store(tmp_path / "store"))] == [
        "run",
        "run",
        "waits",
        "waits",
        "waits",
    ]
    config.write_text(config.read_text().replace('"llama"', '"rwkv"'))
    with pytest.raises(UnsupportedArchitecture, match="rwkv"):
        plan(graph, Store(tmp_path / "store"))


@pytest.mark.parametrize(
    "source",
    [
        {"gguf": "m.gguf"},
        {"dtype": "bfloat16", "gguf": "m.gguf"},
        {"gguf": {"gguf": "m.gguf"}},
        {"file": "*.gguf", "package": "a-model"},
        {"path": "."},
    ],
)
def test_a_source_is_named_by_the_key_that_is_one(tmp_path, source):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    node = build(read_config(write(tmp_path, changed("source", to=source)))).nodes["source"]
    assert node.use == f"source.{next(key for key in source if key in ('gguf', 'package', 'path'))}"


def test_other_parts_of_a_split_file_are_part_of_the_key(tmp_path):
    from compress.pipeline.run import Resolver
    from compress.pipeline.store import Store

    parts = [tmp_path / f"m-0000{part}-of-00002.gguf" for part in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    graph = build(read_config(write(tmp_path, changed("source", to={"gguf": parts[0].name}))))
    resolver = Resolver(graph, Store(tmp_path / "store"))
    before = resolver.key(graph.nodes["source"])
    parts[1].write_bytes(b"GGUF again")
    assert resolver.key(graph.nodes["source"]) != before
