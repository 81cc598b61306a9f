"""Users' data files: what is read, and what is refused with which words."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import shutil
import tracemalloc
from contextlib import nullcontext, suppress

import pytest
from pydantic import ValidationError

from compress.errors import DataError, UsageError
from compress.stage import Job
from finetune.data import stage as data
from finetune.data.fingerprint import fingerprint
from finetune.data.readers import read_rows


def jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run(tmp_path, rules=None, **params):
    out = tmp_path / "out"
    out.mkdir()
    job = Job(params=data.FilesParams(**params), out=out, scratch=tmp_path, rules=rules)
    data.FilesData().check(job)
    facts = data.FilesData().run(job)
    return facts, {p.stem: [json.loads(x) for x in p.open()] for p in sorted(out.glob("*.jsonl"))}


def chat(question, answer, name=None):
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": said, **({} if name is None else {"id": name})}


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        (chat("a?", "b"), "a?", "b"),
        ({"prompt": "a?", "completion": "b"}, "a?", "b"),
        ({"question": "a?", "answer": "b #### 3"}, "a?", "b #### 3"),
        ({"text": "a?", "category": "b"}, "a?", "b"),
        ({"chosen": "\n\nHuman: a?\n\nAssistant: b", "rejected": "\n\nHuman: a?\n\nAssistant: c"}, "a?", "b"),
        ({"prompt": "a?", "response": "b"}, "a?", "b"),
        ({"input": "a?", "output": "b"}, "a?", "b"),
        ({"instruction": "a?", "output": "b"}, "a?", "b"),
        ({"instruction": "say", "input": "a?", "output": "b"}, "say\n\na?", "b"),
        ({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}, "a?", "b"),
        ({"text": "<|user|>\na?<|end|>\n<|assistant|>\nb</s>"}, "a?", "b"),
        ({"text": "<s><|user|>\na?<|end|>\n<|assistant|>\nb<|end|>\n<|endoftext|>\n"}, "a?", "b"),
        (["a?", "b"], "a?", "b"),
        ({"turns": [{"speaker": "USER", "utterance": "a?"}, {"speaker": "SYSTEM", "utterance": "b"}]}, "a?", "b"),
        (
            {
                "turns": [
                    {"speaker": "USER", "utterance": "a?"},
                    {"speaker": "SYSTEM", "utterance": ""},
                    {"speaker": "USER", "utterance": " "},
                    {"speaker": "SYSTEM", "utterance": "b"},
                ]
            },
            "a?",
            "b",
        ),
        (
            {"original": [["agent", "hi"], ["customer", "a?"], ["action", "x"], ["agent", "b"], ["customer", "c"]]},
            "a?",
            "b",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "?"}]},
                    {"role": "assistant", "content": "b"},
                ]
            },
            "a?",
            "b",
        ),
    ],
)
def test_adapters_find_question_and_answer(tmp_path, row, question, answer):
    _, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", [row]))
    (out,) = splits["train"]
    assert [m["content"] for m in out["messages"]] == [question, answer]
    assert splits["calibration"] == splits["train"]


def test_evaluation_rows_end_with_the_question_and_say_what_is_expected(tmp_path):
    rows = [
        {"question": "2+1?", "answer": "so #### 3"},
        {"question": "route?", "answer": '{"queue":"legal"}'},
        {"question": "name?", "answer": " Ana "},
    ]
    _, splits = run(tmp_path, eval=jsonl(tmp_path / "e.jsonl", rows))
    assert [row["expected"] for row in splits["eval"]] == [
        {"answer": "3", "match": "numeric"},
        {"answer": {"queue": "legal"}, "match": "json"},
        {"answer": "Ana", "match": "exact"},
    ]
    assert all(row["messages"][-1]["role"] == "user" for row in splits["eval"])


def test_a_reply_that_is_not_wanted_is_not_expected(tmp_path):
    rows = [{**chat("a?", "b"), "label": 0}, {**chat("c?", "d"), "label": "False"}]
    with pytest.raises(DataError, match=r"e\.jsonl:2: its label is false: the reply is not wanted"):
        run(tmp_path, eval=jsonl(tmp_path / "e.jsonl", rows))


def test_csv_with_mapped_columns_and_lines_of_quoted_newlines(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([["utterance", "intent"], ["two\nlines", "greet"], ["", "bye"]])
    with pytest.raises(DataError, match=r"t\.csv:4: needs 'text'"):
        run(tmp_path, train=path, columns={"text": "utterance", "category": "intent"})


def test_parquet_and_gzip_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a"], "completion": ["b"]}), tmp_path / "t.parquet")
    packed = tmp_path / "e.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(chat("c", "d")).encode()))
    facts, splits = run(tmp_path, train=tmp_path / "t.parquet", eval=packed)
    assert splits["train"][0]["messages"][1]["content"] == "b"
    assert facts["evaluation"] == 1


@pytest.mark.parametrize("kind", ["one split", "several splits", "Parquet files"])
def test_folders_of_datasets_are_read(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_list([{"utterance": f"a{i}", "category": "b"} for i in range(3)])
    held = datasets.Dataset.from_list([{"utterance": "c", "category": "d"}])
    train = train.cast_column("category", datasets.ClassLabel(names=["a", "b"]))  # kept as numbers
    place = tmp_path / "set"
    given = {"train": place, "columns": {"text": "utterance"}}
    if kind == "one split":
        train.save_to_disk(place, num_shards=2)
    elif kind == "several splits":
        datasets.DatasetDict({"train": train, "validation": held}).save_to_disk(place)
    else:
        (place / "data").mkdir(parents=True)
        for i in range(2):
            train.shard(2, i).to_parquet(place / "data" / f"train-{i:05}-of-00002.parquet")
        held.to_parquet(place / "data" / "test-00000-of-00001.parquet")
    _, splits = run(tmp_path, **given, **({} if kind == "one split" else {"eval": place}))
    assert [row["messages"][0]["content"] for row in splits["train"]] == ["a0", "a1", "a2"]
    assert [row["messages"][1]["content"] for row in splits["train"]] == ["b"] * 3
    assert [row["id"] for row in splits["train"]] == ["set:1", "set:2", "set:3"]
    assert [row["messages"][0]["content"] for row in splits.get("eval", [])] == ["c"] * (kind != "one split")


def test_a_folder_that_holds_no_split_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match="plain: is a folder, and not one of datasets"):
        run(tmp_path, train=tmp_path / "plain")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "plain" / "test.jsonl").write_text("")
    with pytest.raises(DataError, match=r"holds files of another split \(test\.jsonl\) and none of train"):
        run(tmp_path, train=tmp_path / "plain")
    shutil.rmtree(tmp_path / "out")
    datasets.Dataset.from_list([{"text": "a", "category": "b"}]).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"\.arrow: is not an Arrow file"):
        run(tmp_path, train=tmp_path / "set")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "set" / "state.json").write_text("[]")
    with pytest.raises(DataError, match=r"state\.json: does not name the files"):
        run(tmp_path, train=tmp_path / "set")


def test_columns_that_nothing_reads_are_no_fault_of_a_row(tmp_path):
    (tmp_path / "t.csv").write_text("How are you?,Fine\nWho?,Me\n")
    for columns in ({}, {"text": "utterance"}):
        with pytest.raises(DataError, match=r"t\.csv:2: .*How are you\?, Fine") as caught:
            run(tmp_path, train=tmp_path / "t.csv", columns=columns)
        assert "columns under columns:" in caught.value.next
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{broken", r"t\.jsonl:2: is not JSON"),
        ([1], r"t\.jsonl:2: must be an object"),
        ({"x": 1}, r"t\.jsonl:2: no adapter fits"),
        ({"messages": []}, r"t\.jsonl:2: messages is an empty list"),
        ({"messages": [{"role": "boss", "content": "x"}]}, r"t\.jsonl:2: messages\[0\] needs a role"),
        ({"messages": [{"role": "user", "content": " "}]}, r"t\.jsonl:2: messages\[0\] needs a content"),
        ({"messages": [{"role": "user", "content": "x"}]}, r"t\.jsonl:2: a training row must end"),
        ({"prompt": 3, "completion": "x"}, r"t\.jsonl:2: needs 'prompt'"),
        ({"text": "only text"}, r"t\.jsonl:2: plain text is for calibration"),
        ({"chosen": "no speakers"}, r"t\.jsonl:2: holds no turn"),
        ("[" * 100_000, r"t\.jsonl:2: is not JSON .brackets in brackets"),
        ({"prompt": "a", "completion": "\ud83d"}, r"t\.jsonl:2: holds half a character .'.ud83d'"),
        ({"conversations": [{"from": "dog", "value": "x"}]}, r"t\.jsonl:2: conversations\[0\] is spoken by 'dog'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            r":2: messages\[0\] has a part of the type 'ima",
        ),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 2}]}, r":2: messages\[0\] has the weight 2"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "no JSON",
        ),
        ({"id": "t.jsonl:1", **chat("q", "r")}, r"t\.jsonl:2: id 't.jsonl:1' stands on line 1"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path, row, what):
    with pytest.raises(DataError, match=what):
        run(
            tmp_path,
            train=jsonl(tmp_path / "t.jsonl", [chat("a", "b"), row if isinstance(row, str) else json.dumps(row)]),
        )


RIGHT = {"answer": "b"}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"expected": "b"}, r"expected is not \{answer, match\}"),
        ({"expected": {"answer": ""}}, r"expected\.answer is empty"),
        ({"expected": {"answer": [], "match": "contains"}}, r"expected\.answer is empty"),
        ({"expected": {"answer": None}}, r"expected\.answer is null"),
        ({"expected": {"answer": "x", "match": "json"}}, r"expected\.answer must be an object"),
        ({"expected": RIGHT, "facts": "gold"}, "facts is a text, not an object"),
        ({"expected": RIGHT, "labels": "plain"}, "labels is a text, not a list of texts"),
        ({"expected": RIGHT, "labels": [3]}, "labels has 3"),
        ({"expected": RIGHT, "sources": ["K7"]}, r"sources\[0\] is not \{id, text\}"),
        ({"expected": RIGHT, "prompted": "thanks"}, "prompted is a text"),
        ({"expected": RIGHT, "cluster": {}}, r"cluster is \{\}"),
        ({"expected": RIGHT, "id": True}, "id is True"),
        ({"expected": RIGHT, "lables": ["plain"]}, "unknown column 'lables' .did you mean 'labels'"),
        ({}, "needs expected, or the right answer as its last message"),
        ({"expected": {"answer": {"action": "sing"}, "match": "json"}}, "action is 'sing'"),
        ({"expected": RIGHT, "labels": ["plian"]}, "label 'plian' is named by no rule .did you mean 'plain'"),
        ({"expected": RIGHT, "facts": {"tier": "iron"}}, "fact tier is 'iron'"),
        ({"expected": RIGHT, "prompted": ["thank"]}, "unknown rule 'thank' in prompted"),
    ],
)
def test_a_part_of_the_wrong_type_is_refused_where_the_user_wrote_it(tmp_path, change, what):
    (tmp_path / "rules.yaml").write_text(LABELLED)
    rows = [{"expected": RIGHT, **asked("first")}, {**asked("second"), **change}]
    with pytest.raises(DataError, match=r"e\.jsonl:2: .*" + what):
        run(tmp_path, tmp_path / "rules.yaml", eval=jsonl(tmp_path / "e.jsonl", rows))


LABELLED = """
version: 1
contract: {action: [answer, escalate], reply: text}
facts: {tier: [gold, basic]}
rules:
  - id: thanks
    severity: soft
    when: {label: plain}
    must: {any_word: [thanks]}
    fixtures: {pass: [{user: hi, labels: plain, reply: Thanks.}], fail: [{user: hi, labels: plain, reply: No.}]}
"""


def asked(content):
    return {"messages": [{"role": "user", "content": content}]}


def test_a_question_that_stands_often_is_counted_once(tmp_path, caplog):
    rows = [{**asked("Where is it?" + "!" * i), "expected": RIGHT} for i in range(9)] + [
        {**asked("Why?"), "expected": RIGHT}
    ]
    facts, _ = run(tmp_path, eval=jsonl(tmp_path / "e.jsonl", rows))
    assert (facts["evaluation"], facts["evaluation_questions"]) == (10, 2)
    assert "10 rows ask 2 different questions" in caplog.text


def test_a_heading_is_no_final_number(tmp_path):
    rows = [{"question": "how?", "answer": "#### Steps\n1. Open it"}]
    _, splits = run(tmp_path, eval=jsonl(tmp_path / "e.jsonl", rows))
    assert splits["eval"][0]["expected"] == {"answer": "#### Steps\n1. Open it", "match": "exact"}


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.jsonl").write_bytes(b'{"prompt": "a", "completion": "b"}\n\xff\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: is not UTF-8"):
        run(tmp_path, train=tmp_path / "bad.jsonl")
    for order in ("utf-16-le", "utf-16-be"):
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "wide.jsonl").write_bytes(("\ufeff" + json.dumps(chat("a", "b"))).encode(order))
        with pytest.raises(DataError, match=r"wide\.jsonl: is a UTF-16 file"):
            run(tmp_path, train=tmp_path / "wide.jsonl", on_bad_row="skip")
    with pytest.raises(DataError, match="there is no such file"):
        data.FilesData().check(
            Job(params=data.FilesParams(train=tmp_path / "no.jsonl"), out=tmp_path, scratch=tmp_path)
        )
    with pytest.raises(UsageError, match="names no file"):
        data.FilesData().check(Job(params=data.FilesParams(), out=tmp_path, scratch=tmp_path))


def test_a_line_that_stands_twice_is_a_twin_though_it_has_an_id(tmp_path):
    rows = [chat("a", "b", "7"), chat("c", "d", "8"), chat("a", "b", "7")]
    facts, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", rows), duplicates="drop")
    assert [row["id"] for row in splits["train"]] == ["7", "8"]
    assert facts["left_out"] == {"train": {"duplicates": 1}}
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"t\.jsonl:3: id '7' stands on line 1 already"):
        run(tmp_path, train=tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("names", "wrong"),
    [(["t.jsonl:2", None], "2: id 't.jsonl:2' stands on line 1"), ([None, "t.jsonl:1"], "2: id 't.jsonl:1'"),
     ([None, "t.jsonl:2", "t.jsonl:9", "x:1"], None)],
)  # fmt: skip
def test_ids_that_look_like_places(tmp_path, names, wrong):
    file = jsonl(tmp_path / "t.jsonl", [chat(f"q{i}", "a", name) for i, name in enumerate(names)])
    with pytest.raises(DataError, match=wrong) if wrong else nullcontext():
        _, splits = run(tmp_path, train=file)
    if not wrong:
        assert [row["id"] for row in splits["train"]] == ["t.jsonl:1", *names[1:]]


def test_memory_does_not_grow_with_the_rows(tmp_path):
    held = jsonl(tmp_path / "e.jsonl", [chat("Other?", "No.")])

    def peak(rows):
        out = tmp_path / f"out{rows}"
        out.mkdir()
        train = jsonl(tmp_path / f"{rows}.jsonl", [chat(f"Question {i}?", "Yes.") for i in range(rows)])
        job = Job(params=data.FilesParams(train=train, eval=held), out=out, scratch=tmp_path)
        tracemalloc.start()
        data.FilesData().run(job)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(5000) - peak(1000) < 4000 * 10  # bytes: an id or a digest of each takes a hundred


def test_a_group_of_rows_in_parquet_is_not_read_whole(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"prompt": [f"{i} " + "a" * 2000 for i in range(20_000)], "completion": ["b"] * 20_000})
    parquet.write_table(table, tmp_path / "t.parquet", compression="none", use_dictionary=False)
    del table
    before, highest = pyarrow.total_allocated_bytes(), 0
    for _ in read_rows(tmp_path / "t.parquet"):
        highest = max(highest, pyarrow.total_allocated_bytes() - before)
    assert 0 < highest < 20e6  # the one group takes 40 MB


def test_evaluation_rows_in_training_are_an_error_or_dropped(tmp_path):
    train = jsonl(tmp_path / "t.jsonl", [chat("How are you?", "b"), chat("x", "y")])
    held = jsonl(tmp_path / "e.jsonl", [chat("new", "n"), chat("how are YOU", "b")])
    with pytest.raises(DataError, match=r"e\.jsonl:2: is in training too .*t\.jsonl:1"):
        run(tmp_path, train=train, eval=held)
    shutil.rmtree(tmp_path / "out")
    facts, splits = run(tmp_path, train=train, eval=held, overlap="drop")
    assert facts["overlap"] == 1
    assert [row["messages"][0]["content"] for row in splits["eval"]] == ["new"]


def test_a_line_that_is_no_text_can_be_left_out(tmp_path, caplog):
    lines = [json.dumps(chat(word, "b"), ensure_ascii=False) for word in ("a", "café", "c")]
    (tmp_path / "t.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    _, splits = run(tmp_path, train=tmp_path / "t.jsonl", on_bad_row="skip")
    assert [row["id"] for row in splits["train"]] == ["t.jsonl:1", "t.jsonl:3"]
    assert "1 rows cannot be used" in caplog.text


def test_a_column_that_is_mapped_to_nothing_is_named():
    with pytest.raises(ValidationError, match=r"no adapter has a column 'qustion' \(did you mean 'question'"):
        data.FilesParams(columns={"qustion": "q"})
    assert data.FilesParams(columns={"system": "s", "question": "q"})


def test_bad_rows_and_twins_are_left_out_and_counted(tmp_path, caplog):
    rows = [chat("a", "b"), "{broken", {"x": 1}, chat("a", "b"), chat("a", "c")]
    facts, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", rows), on_bad_row="skip", duplicates="drop")
    assert [row["id"] for row in splits["train"]] == ["t.jsonl:1", "t.jsonl:5"]
    assert facts["train"] == 2
    assert facts["left_out"] == {"train": {"broken": 2, "duplicates": 1}}
    assert "2 rows cannot be used and are left out" in caplog.text
    assert "t.jsonl:2: is not JSON" in caplog.text
    assert "1 rows stand there already" in caplog.text
    (tmp_path / "out" / "train.jsonl").unlink()
    with pytest.raises(DataError, match="no rows that can be used"):
        data.Rows(jsonl(tmp_path / "n.jsonl", ["{"]), data.FilesParams(on_bad_row="skip"), "train").write(
            Job(params=data.FilesParams(), out=tmp_path / "out", scratch=tmp_path)
        )


@pytest.mark.parametrize(
    ("taught", "held", "leaks"),
    [
        ([("user", "मेरा दिन कैसा")], [("user", "मेरी दीन कैसी")], False),
        ([("user", "👍")], [("user", "👎")], False),
        ([("user", "Is it C?")], [("user", "Is it C++?")], False),
        ([("system", "You are Ann."), ("user", "Where is it?")], [("user", "where is  IT")], True),
        ([("user", "İPTAL sıfır")], [("user", "iptal SIFIR")], True),
        ([("user", "٤٢")], [("user", "42")], True),
        ([("user", "Is it -5?")], [("user", "Is it 5?")], False),
        ([("user", "3 - 2")], [("user", "3 2")], False),
        ([("user", "- It is so")], [("user", "It is so")], True),
        ([("user", "!")], [("user", "?")], False),
    ],
)
def test_which_questions_are_the_same(tmp_path, taught, held, leaks):
    def row(turns):
        return {"messages": [{"role": r, "content": c} for r, c in [*turns, ("assistant", "x")]]}

    files = jsonl(tmp_path / "t.jsonl", [row(taught)]), jsonl(tmp_path / "e.jsonl", [row(held)])
    facts, splits = run(tmp_path, train=files[0], eval=files[1], overlap="keep")
    assert facts["overlap"] == leaks
    assert len(splits["eval"]) == 1


@pytest.mark.parametrize(("weight", "held", "leaks"), [(1, "where IS it", True), (0, "where IS it", False),
                                                       (1, "And why?", False)])  # fmt: skip
def test_a_question_that_an_earlier_turn_answers_is_in_training(tmp_path, weight, held, leaks):
    first, then = chat("Where is it?", "Here.")["messages"], chat("And why?", "So.")["messages"]
    first[1]["weight"] = weight
    files = (
        jsonl(tmp_path / "t.jsonl", [{"messages": first + then}]),
        jsonl(tmp_path / "e.jsonl", [chat(held, "Here.")]),
    )
    with pytest.raises(DataError, match="in training too") if leaks else nullcontext():
        facts, _ = run(tmp_path, train=files[0], eval=files[1])
    if not leaks:
        assert (facts["evaluation"], facts["overlap"]) == (1, 0)


def test_openai_rows_keep_weights_and_tool_calls(tmp_path):
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
    rows = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Where is order 7?"},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "at sea", "tool_call_id": "c1"},
            {"role": "assistant", "content": "At sea.", "weight": 1},
        ]
    }
    _, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", [rows]))
    kept = splits["train"][0]["messages"]
    assert [m["role"] for m in kept] == ["system", "user", "assistant", "tool", "assistant"]
    assert kept[2]["weight"] == 0
    assert kept[2]["content"] == ""
    assert kept[2]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"order": 7}}
    assert kept[3]["tool_call_id"] == "c1"
    assert "weight" not in kept[4]


def test_a_json_file_names_lines_and_may_hold_several_splits(tmp_path):
    rows = [chat("a", "b"), chat("c", "")]
    (tmp_path / "pretty.json").write_text(json.dumps(rows, indent=2))
    line = json.dumps(rows, indent=2).split("\n").index("  {", 2) + 1
    with pytest.raises(DataError, match=rf"pretty\.json:{line}: messages\[1\]"):
        run(tmp_path, train=tmp_path / "pretty.json")
    shutil.rmtree(tmp_path / "out")
    both = {"train": [["hi", "greet"]], "test": [["bye", "leave"]]}
    (tmp_path / "both.json").write_text(json.dumps(both))
    _, splits = run(tmp_path, train=tmp_path / "both.json", eval=tmp_path / "both.json")
    assert splits["eval"][0]["expected"]["answer"] == "leave"


def test_long_cells_and_blank_lines_of_a_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt,completion\r\nhi," + "word " * 40_000 + "\r\n\r\na,b\r\n\r\n")
    _, splits = run(tmp_path, train=path)
    assert [row["id"] for row in splits["train"]] == ["t.csv:2", "t.csv:4"]


@pytest.mark.parametrize(
    "text",
    [
        "prompt;completion\nhi;yo, you\n",
        "prompt\tcompletion\nhi\tyo, you\n",
        "prompt|completion\nhi|yo, you\n",
        'sep=;\nprompt;completion\nhi;"yo, you"\n',
        '\n\n prompt , completion \nhi,"yo, you"\n',
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    _, splits = run(tmp_path, train=tmp_path / "t.csv")
    (row,) = splits["train"]
    assert [message["content"] for message in row["messages"]] == ["hi", "yo, you"]
    assert row["id"] == f"t.csv:{len(text.splitlines())}"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "prompt,prompt,completion\na,b,c\n", r"t\.csv:1: .*'prompt' stands twice"),
        ("t.csv", "\nprompt,completion\nhi\n", r"t\.csv:3: has 1 cells, the header 2"),
        ("t.csv", "prompt,completion\rhi,yo\r", r"t\.csv:1: .*carriage return"),
        ("t.json", '{"prompt": "a"}\n{"prompt": "b"}\n', r"t\.json:2: is not JSON.*\n.*\.jsonl"),
        ("t.json", '[\n{"prompt": "a", "completion": "b"},\n{"prompt": "a", "prompt": "b"}]', r"t\.json:3: .*'prompt'"),
        ("t.jsonl", '{"messages": [{"role": "boss", "content": "a"}]}', r"t\.jsonl:1: .*not 'boss'"),
        (
            "t.jsonl",
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls":'
            ' [{"function": {"name": "f", "arguments": "5"}}]}]}',
            r"t\.jsonl:1: .*arguments that are no object",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(DataError, match=said):
        run(tmp_path, train=tmp_path / name)


def test_parquet_fills_up_objects_and_has_maps(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    asked = [[{"role": "user", "content": text}] for text in "ab"]
    facts = pyarrow.array([[("tier", "gold")], []], pyarrow.map_(pyarrow.string(), pyarrow.string()))
    expected = [{"answer": "x", "match": "exact", "note": None}, {"answer": "y", "match": None, "note": None}]
    table = pyarrow.table({"messages": asked, "facts": facts, "expected": expected})
    parquet.write_table(table, tmp_path / "t.parquet")
    _, splits = run(tmp_path, eval=tmp_path / "t.parquet")
    assert [row["expected"] for row in splits["eval"]] == [{"answer": "x", "match": "exact"}, {"answer": "y"}]
    assert splits["eval"][0]["facts"] == {"tier": "gold"}


def test_a_folder_of_documents_is_text_for_calibration(tmp_path):
    folder = tmp_path / "docs"
    (folder / "more").mkdir(parents=True)
    (folder / "a.md").write_text("# Title\n")
    (folder / "more" / "b.html").write_text(
        "<head><title>T</title></head><p>One &amp; <b>two</b></p><script>x()</script>"
    )
    (folder / "c.png").write_bytes(b"\xff")
    _, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", [chat("a", "b")]), calibration=folder)
    assert [row["text"] for row in splits["calibration"]] == ["# Title", "One & two"]


def test_a_folder_of_files_is_read_as_one(tmp_path):
    place = tmp_path / "set"
    place.mkdir()
    (place / "schema.json").write_text('[{"service": "x"}]')
    (place / ".hidden.json").write_text("[]")
    for i in range(2):
        rows = [chat(f"{i} {n}?", "b" if n or not i else "") for n in range(2)]
        (place / f"dialogues_{i:03}.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
    with pytest.raises(DataError, match=r"dialogues_001\.json\.gz:2: messages\[1\] needs a content"):
        run(tmp_path, train=place)
    shutil.rmtree(tmp_path / "out")
    facts, splits = run(tmp_path, train=place, on_bad_row="skip")
    assert [row["messages"][0]["content"] for row in splits["train"]] == ["0 0?", "0 1?", "1 1?"]
    assert facts["left_out"] == {"train": {"broken": 1}}


def test_files_of_a_folder_go_by_their_split(tmp_path):
    place = tmp_path / "set"
    place.mkdir()
    jsonl(place / "train-1.jsonl", [chat("a?", "b"), chat("c?", "d", "7")])
    jsonl(place / "train-2.jsonl", [chat("e?", "f", "7")])
    jsonl(place / "test.jsonl", [chat("g?", "h"), chat("C!", "d")])
    with pytest.raises(DataError, match=r"train-2\.jsonl:1: id '7' stands in .*train-1\.jsonl:2 already"):
        run(tmp_path, train=place)
    jsonl(place / "train-2.jsonl", [chat("e?", "f")])
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"test\.jsonl:2: is in training too \(.*train-1\.jsonl:2\)"):
        run(tmp_path, train=place, eval=place)
    (place / "train.csv").write_text("prompt,completion\na,b\n")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"set: holds files of several kinds: \.csv, \.jsonl"):
        run(tmp_path, train=place)
    (place / "notes.md").write_text("Words.")
    shutil.rmtree(tmp_path / "out")
    _, splits = run(tmp_path, calibration=place)
    assert [row["text"] for row in splits["calibration"]] == ["Words."]


def test_real_sets_are_read(tmp_path, shared_data):
    banking = next(iter(sorted(shared_data.glob("banking77/*train*.csv*"))))
    facts, _ = run(tmp_path, train=banking)
    assert facts["train"] == 10003


@pytest.mark.parametrize(
    ("pattern", "split", "count"),
    [
        ("clinc150/data_full.json", "eval", 4500),
        ("abcd/abcd_sample.json", "train", 3),
        ("sgd/test/*", "train", None),
        ("hh_rlhf/harmless-base/*", "train", 2303),
    ],
)
def test_real_sets_of_other_shapes(tmp_path, shared_data, pattern, split, count):
    files = [f for f in sorted(shared_data.glob(pattern)) if f.suffix in (".json", ".jsonl", ".gz")]
    if not files:
        pytest.skip(f"{pattern} is not there")
    facts, _ = run(tmp_path, on_bad_row="skip", **{split: files[0]})
    assert facts["evaluation" if split == "eval" else split] == (count or facts[split]) > 0


def refused(tmp_path, row):
    with pytest.raises(DataError) as caught:
        next(data.Rows(jsonl(tmp_path / "r.jsonl", [row]), data.FilesParams(), "train").rows())
    return str(caught.value)


PROMPT, GOOD, BAD = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}, "c"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a?", "chosen": "b", "rejected": "c"},
        {"prompt": [PROMPT], "chosen": [GOOD], "rejected": [{**GOOD, "content": BAD}]},
        {"chosen": [PROMPT, GOOD], "rejected": [PROMPT, {**GOOD, "content": BAD}]},
        {"prompt": "a?", "chosen": [PROMPT, GOOD], "rejected": [PROMPT, {**GOOD, "content": BAD}]},
        {"messages": [PROMPT], "chosen": "b", "rejected": "c"},
        {
            "input": {"messages": [PROMPT]},
            "preferred_output": [GOOD],
            "non_preferred_output": [{**GOOD, "content": BAD}],
        },
        {"chosen": "\n\nHuman: a?\n\nAssistant: b", "rejected": "\n\nHuman: a?\n\nAssistant: c"},
    ],
)
def test_preferences_of_every_shape(tmp_path, row):
    _, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", [row]))
    (out,) = splits["train"]
    assert (out["messages"], out["chosen"], out["rejected"]) == ([PROMPT, GOOD], "b", "c")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: c"}, "differ before"),
        (
            {
                "prompt": "a",
                "chosen": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
                "rejected": "b",
            },
            "chosen ends with tool calls; only texts are compared here",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: "},
            "rejected does not end",
        ),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": 7}, "needs 'rejected'"),
        ({**chat("a", "b"), "rejected": [GOOD]}, "rejected is a list"),
        ({"messages": [PROMPT, {**GOOD, "weight": 0}]}, "every assistant message has weight 0"),
        ({**chat("a", "b"), "tools": [{"name": "f"}]}, r"tools[0] needs"),
        ({"messages": '[{"role": "user"}]'}, "messages is a text"),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "history is not"),
    ],
)
def test_what_would_teach_something_else_is_refused(tmp_path, row, why):
    assert why in refused(tmp_path, row)


ODD = [None, 3, "", "x", [], [3], [None], [[]], [["a"]], [["a", "b"]], [["a", 3]], {}, [{}], {"messages": 3}]
ODD += [[{"role": "user"}], [{"speaker": "USER"}], [{"from": 3, "value": "x"}], "\n\nHuman: \n\nAssistant: ", True]


@pytest.mark.parametrize("adapter", [name for name in sorted(data.ADAPTERS) if name in data.WANTED])
def test_adapters_refuse_odd_values_with_words_of_their_own(adapter):
    for values in itertools.product(ODD, repeat=min(2, len(data.WANTED[adapter]))):
        row = dict(zip(data.WANTED[adapter], values, strict=False))
        with suppress(ValueError):
            data.check_messages(data.ADAPTERS[adapter](row).get("messages"))


def test_earlier_turns_labels_of_tables_and_tools_are_kept(tmp_path):
    (tmp_path / "t.csv").write_text("prompt,completion,label,\na,b,1,\nc,d,0.5,\n")
    _, splits = run(tmp_path, train=tmp_path / "t.csv")
    assert [row["label"] for row in splits["train"]] == [1, 0.5]
    (tmp_path / "out" / "train.jsonl").unlink()
    shutil.rmtree(tmp_path / "out")
    tools = [{"type": "function", "function": {"name": "track"}}]
    rows = [{"instruction": "c", "output": "d", "history": [["a", "b"]]}, {**chat("a", "b"), "tools": tools}]
    _, splits = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", rows))
    assert [m["content"] for m in splits["train"][0]["messages"]] == ["a", "b", "c", "d"]
    assert splits["train"][1]["tools"] == tools


def test_rows_that_differ_in_the_rejected_reply_are_no_twins(tmp_path):
    rows = [{**chat("a", "b"), "rejected": reply} for reply in "ccd"]
    facts, _ = run(tmp_path, train=jsonl(tmp_path / "t.jsonl", rows), duplicates="drop")
    assert facts["train"] == 2


@pytest.mark.parametrize(("overlap", "why"), [("error", "is in training too"), ("drop", "no rows that can be used")])
def test_an_evaluation_of_nothing_but_training_rows(tmp_path, overlap, why):
    path = jsonl(tmp_path / "t.jsonl", [chat("a", "b")])
    with pytest.raises(DataError, match=why):
        run(tmp_path, train=path, eval=path, overlap=overlap)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "is a gzip file"),
        ("a.csv", b"PK\x03\x04\xff", "is a ZIP or Excel file"),
        ("a.csv", b"(\xb5/\xfd\xff", "is a Zstandard file"),
        ("a.jsonl", b'{\n"prompt": "a"}', "name it .json"),
        ("a.jsonl", b'[{"prompt": "a"}]', "name the file .json"),
        ("a.jsonl.zst", b"", "unpack it first"),
        ("a.csv", b'prompt,completion\na,"b\nc,d\n', "a.csv:2: has a quotation mark"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, why):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        run(tmp_path, train=tmp_path / name)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("\u0643\u064e\u062a\u064e\u0628", "\u0643\u062a\u0628", True), ("a != b", "a = b", False)],
)
def test_questions_in_other_spellings(one, other, same):
    assert (fingerprint(chat(one, "x")) == fingerprint(chat(other, "x"))) is same
    facts = [fingerprint({**chat("a", "x"), "facts": {"n": n}}) for n in (1, 1.0, 1.5)]
    assert facts[0] == facts[1] != facts[2]


def test_blocks_and_cells_of_a_page_do_not_run_together(tmp_path):
    folder = tmp_path / "docs"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "x.md").write_text("hidden")
    page = "<nav>Menu</nav><p>Hi<br>you</p><ul><li>one<li>two</ul><table><tr><td>a</td><td>b</td></tr></table>end"
    (folder / "a.html").write_text(page)
    (empty := tmp_path / "empty").mkdir()
    _, splits = run(tmp_path, calibration=folder)
    assert [row["text"] for row in splits["calibration"]] == ["Menu\nHi\nyou\none\ntwo\na b \nend"]
    with pytest.raises(DataError, match="holds no documents"):
        list(data.read_rows(empty))
