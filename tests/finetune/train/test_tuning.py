"""The base model and its tuning: killed and continued runs end with the same bytes; the merge is the trained model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_folder import write_tokenizer
from tiny_base import SMALL

from compress.artifact import open_artifact, seal
from compress.errors import ArtifactError, DataError, UsageError
from compress.stage import Job
from finetune.source import tiny, tiny_tokenizer
from finetune.train import batches, merge, sft, training
from finetune.train.rows import training_rows
from finetune.world import stage as world

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")
TrainerCallback = transformers.TrainerCallback

RULES = Path(__file__).parents[3] / "configs/rules/customer_service.yaml"
TUNE = {"steps": 24, "batch": 4, "checkpoint_every": 8, "rank": 4}


class Killed(BaseException):
    """Stands for the end of the process."""


def die_after(step):
    def progress(done, total, note=""):
        if done >= step and total > step:
            raise Killed

    return progress


def fresh(path):
    path.mkdir(parents=True)
    return path


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("measurements.json", "artifact.json"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def base(small_base):
    return small_base


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    params = world.WorldParams(train=60, calibration=10, evaluation=20)
    facts = world.WorldData().run(Job(params=params, out=out, scratch=out, rules=RULES, seed=1))
    return seal(out, kind="data", stage="data.world", stage_version=1, params={}, inputs={}, facts=facts)


def tune(root, base, data, progress=None, **changes):
    out = fresh(root / "out")
    (root / "scratch").mkdir(exist_ok=True)
    extra = {"progress": progress} if progress else {}
    params = sft.SftParams(**{**TUNE, **changes})
    job = Job(
        params=params,
        out=out,
        scratch=root / "scratch",
        inputs=(base,),
        data=data,
        rules=RULES,
        seed=5,
        threads=1,
        **extra,
    )
    return out, sft.Sft().run(job)


def test_a_killed_base_training_ends_with_the_same_bytes(base, tmp_path):
    scratch = fresh(tmp_path / "scratch")
    calls, original = iter(range(100)), tiny.one_step

    def step(*arguments):
        if next(calls) == 6:
            raise Killed
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "one_step", step)
        job = Job(params=SMALL, out=fresh(tmp_path / "a"), scratch=scratch, seed=3, threads=1)
        with pytest.raises(Killed):
            tiny.TinySource().run(job)
    assert (scratch / "checkpoint.pt").is_file()
    out = fresh(tmp_path / "b")
    tiny.TinySource().run(Job(params=SMALL, out=out, scratch=scratch, seed=3, threads=1))
    assert digests(out) == digests(base.path)


def test_the_base_is_a_llama_with_its_own_tokenizer_template_and_end(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    text = "Order 4821 \U0001f600 \x00 naïve\n\n  tab\t#B72"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert [t for t in tokenizer.convert_ids_to_tokens(ids) if t.isdigit()] == list("482172")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes 12"}]
    assert tiny_tokenizer.encode(tokenizer, messages)[0] == tokenizer.apply_chat_template(messages)["input_ids"]
    head = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    assert tokenizer.apply_chat_template(messages)["input_ids"][: len(head)] == head
    assert not [p for p in base.path.glob("*.json") if str(Path.home()) in p.read_text() or "/tmp" in p.read_text()]


def test_batches_hold_rows_of_like_length_and_every_row_once():
    lengths = [7, 3, 9, 1, 8, 2, 6, 4, 5, 10]
    plan = batches.plan_batches(lengths, 5, 2, seed=0)
    assert sorted(i for batch in plan for i in batch) == list(range(10))
    assert all(abs(lengths[a] - lengths[b]) == 1 for a, b in plan)
    assert plan != batches.plan_batches(lengths, 5, 2, seed=1)
    assert plan == batches.plan_batches(lengths, 9, 2, seed=0)[:5]
    assert [len(rows) for rows in batches.plan_batches([5, 6, 7], 4, 4, seed=0)] == [4] * 4


def test_the_parts_of_a_batch_add_up_to_its_loss(base, data, tmp_path, monkeypatch):
    whole, _ = _first_losses(base, data, tmp_path / "whole")
    monkeypatch.setattr(batches, "AT_ONCE", 80)
    parts, sizes = _first_losses(base, data, tmp_path / "parts")
    assert parts == pytest.approx(whole, rel=2e-3)
    assert set(sizes) == {1}


def _first_losses(base, data, root):
    """Losses of the first steps, and how many rows went through the model together."""
    root.mkdir()
    (root / "scratch").mkdir()
    losses, sizes = [], []
    params = sft.SftParams(**{**TUNE, "steps": 10, "checkpoint_every": 100})
    job = Job(params=params, out=root, scratch=root / "scratch", inputs=(base,), data=data, seed=5, threads=1)
    objective, _ = sft.Sft().objective(job)
    trainer = training._trainer
    with pytest.MonkeyPatch.context() as patch:

        def watched(*given):
            made = trainer(*given)
            made.args.logging_steps = 1
            inner = made.compute_loss

            def watch(model, inputs, *more, **named):
                sizes.append(len(inputs["input_ids"]))
                return inner(model, inputs, *more, **named)

            made.compute_loss = watch
            made.add_callback(Losses(losses))
            return made

        patch.setattr(training, "_trainer", watched)
        training.train(job, objective, 1e-3)
    return losses, sizes


class Losses(TrainerCallback):
    def __init__(self, losses):
        self.losses = losses

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))


def test_scored_positions_predict_exactly_the_labelled_tokens():
    import torch

    labels = torch.tensor([[-100, -100, 7, 8], [-100, 9, -100, -100]])
    places, targets = tiny.scored(labels)
    assert places.tolist()[:3] == [1, 2, 4]
    assert targets.tolist()[:3] == [7, 8, 9]
    assert len(places) == 256
    assert set(targets.tolist()[3:]) == {-100}


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_a_killed_tuning_ends_with_the_same_bytes(base, data, tmp_path, method):
    whole, facts = tune(fresh(tmp_path / "whole"), base, data, method=method)
    root = fresh(tmp_path / "killed")
    with pytest.raises(Killed):
        tune(root, base, data, progress=die_after(10), method=method)
    assert list((root / "scratch").glob("checkpoint-8/whole.json"))
    (root / "scratch" / "checkpoint-12").mkdir()  # one that was being written
    (root / "out").rmdir()
    again, continued = tune(root, base, data, method=method)
    assert digests(again) == digests(whole)
    assert facts["steps"] == continued["steps"] == 24
    assert facts == continued
    if method == "qlora":
        assert facts["merge_max_logit_gap"] < 0.02
        assert "tmp" not in (again / "adapter" / "adapter_config.json").read_text()


def family(place, kind, **more):
    """A small random model of a family that has no row in LAYOUTS, as transformers stores it."""
    fresh(place)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.AutoConfig.for_model(kind, vocab_size=write_tokenizer(place), **sizes, eos_token_id=2, **more)
    torch.manual_seed(3)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return seal(place, kind="hf", stage="t", stage_version=1, params={}, inputs={}, facts={})


@pytest.mark.slow
def test_a_killed_training_goes_on_with_weights_that_are_stored_under_other_names(data, tmp_path):
    """GPT-NeoX's head is called embed_out in files and lm_head in transformers' model."""
    base = family(tmp_path / "base", "gpt_neox", max_position_embeddings=2048)
    how = {"method": "full", "max_length": 2048, "rate": 1e-3}
    whole, _ = tune(fresh(tmp_path / "whole"), base, data, **how)
    assert "embed_out.weight" in load_file(whole / "model.safetensors")
    root = fresh(tmp_path / "killed")
    with pytest.raises(Killed):
        tune(root, base, data, progress=die_after(10), **how)
    (root / "out").rmdir()
    again, _ = tune(root, base, data, **how)
    assert digests(again) == digests(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The following .* keys did not match any targeted module:RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("gpt_neox", {}),
        ("olmo2", {"num_key_value_heads": 2}),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        ("bloom", {"n_layer": 2, "n_head": 4}),
        (
            "qwen3_moe",
            {
                "num_key_value_heads": 2,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "head_dim": 16,
            },
        ),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_on_families_that_nothing_else_here_reads(data, tmp_path, kind, more, method):
    longer = {} if kind == "bloom" else {"max_position_embeddings": 2048}
    how = {"method": method, "max_length": 2048, "rate": 1e-2, "steps": 12}
    out, facts = tune(tmp_path, family(tmp_path / "base", kind, **longer, **more), data, **how)
    losses = json.loads((out / "training.json").read_text())["loss"]
    assert losses[-1] < losses[0] - 0.03
    assert facts["merge_max_logit_gap"] < 0.02


@pytest.mark.slow
def test_measuring_leaves_nf4_weights_as_they_are_trained(data, tmp_path):
    """On CPUs with bfloat16 products bitsandbytes repacks them for inference, and cannot in this width (96)."""
    base = family(tmp_path / "base", "olmo2", num_key_value_heads=2, max_position_embeddings=2048)
    how = {"method": "qlora", "adapter": {"kind": "dora"}, "max_length": 2048, "steps": 6}
    _, facts = tune(tmp_path, base, data, validation={"share": 0.2, "every": 2}, **how)
    assert facts["validation_loss"] > 0


def test_the_merge_stands_on_the_dequantized_base(base, data, tmp_path):
    """Merged into the original weights instead, the model would be another one than was trained."""
    import torch
    from peft import PeftModel

    out, _ = tune(tmp_path, base, data)
    probe = [list(range(6, 60))]
    merged, gap = merge.merge(base.path, out / "adapter", four_bit=True, probes=probe)
    naive = merge.load_base(base.path, four_bit=False, compute=torch.float32)
    naive = PeftModel.from_pretrained(naive, out / "adapter").merge_and_unload()
    other = float((merge.logits(naive, probe[0]) - merge.logits(merged, probe[0])).abs().max())
    assert other > 3 * gap
    stored = merge.load_base(out, four_bit=False, compute=torch.float32)
    assert torch.equal(merge.logits(stored, probe[0]), merge.logits(merged, probe[0]))


def test_a_merge_that_is_another_model_is_refused():
    with pytest.raises(ArtifactError, match="differ"):
        merge.check_gap(0.5, 0.02)
    with pytest.raises(ArtifactError, match="differ"):
        merge.check_gap(float("nan"), 0.02)


def test_an_adapter_is_the_same_whatever_the_order_of_its_names(tmp_path):
    found = []
    for number, names in enumerate((["q_proj", "down_proj"], ["down_proj", "q_proj"])):
        place = fresh(tmp_path / str(number))
        (place / "adapter_model.safetensors").write_bytes(b"weights")
        config = {"target_modules": names, "base_model_name_or_path": f"here/{number}", "r": 4}
        (place / "adapter_config.json").write_text(json.dumps(config))
        merge.save_adapter(place, tmp_path / f"out-{number}")
        found.append(digests(tmp_path / f"out-{number}"))
    assert found[0] == found[1]
    assert "here" not in (tmp_path / "out-0" / "adapter_config.json").read_text()


def test_training_rows_must_end_with_an_answer(base, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n")
    rows = seal(tmp_path, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    with pytest.raises(DataError, match=r"train\.jsonl:1: .*assistant"):
        training_rows(Job(params=sft.SftParams(), out=tmp_path, scratch=tmp_path, data=rows))
    with pytest.raises(UsageError, match="no training data"):
        sft.Sft().check(Job(params=sft.SftParams(), out=tmp_path, scratch=tmp_path))


def changed(base, place, **config):
    """A copy of the base with other settings in config.json (None: without), without its record."""
    shutil.copytree(base.path, place)
    (place / "artifact.json").unlink()
    path = place / "config.json"
    whole = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in whole.items() if value is not None}))
    return place


@pytest.mark.parametrize(
    ("config", "generation", "match"),
    [
        ({"dtype": "float9"}, None, r"config.json: dtype is 'float9'"),
        ({"dtype": "int8"}, None, r"config.json: dtype is 'int8'"),
        ({}, "{", r"generation_config.json is not JSON"),
        ({}, '{"eos_token_id": "x"}', r"eos_token_id is 'x', not a token id"),
        ({"vocab_size": 7}, None, r"embed_tokens.weight has shape"),
    ],
)
def test_what_could_not_be_saved_is_refused_before_training(base, data, tmp_path, config, generation, match):
    folder = changed(base, tmp_path / "m", **config)
    if generation:
        (folder / "generation_config.json").write_text(generation)
    job = Job(params=sft.SftParams(), out=tmp_path, scratch=tmp_path, inputs=(open_artifact(folder),), data=data)
    with pytest.raises(ArtifactError, match=match):
        sft.Sft().check(job)


def test_the_dtype_is_that_of_the_weights_where_config_json_is_silent(base, tmp_path):
    for number, given in enumerate((None, "auto", "torch.bfloat16")):
        folder = changed(base, tmp_path / str(number), dtype=given, torch_dtype=None)
        assert merge.saved_dtype(folder) == ("bfloat16" if given and "16" in given else "float32")


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_a_head_of_its_own_and_odd_generation_settings_come_through(base, data, tmp_path, method):
    """A flag that ties a head that differs; settings that transformers would refuse to save once it changed them."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    folder = changed(base, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    odd = json.dumps({"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 3})
    (folder / "generation_config.json").write_text(odd)
    out = tune(tmp_path / "tuned", open_artifact(folder), data, method=method, steps=2, checkpoint_every=1)[0]
    assert (out / "generation_config.json").read_text() == odd
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(out)
    head = model.get_output_embeddings().weight
    near = tensors["lm_head.weight"].float()
    assert (head - near).norm() < 0.1 * near.norm()


def test_weights_that_are_not_finite_are_named_before_training(base, data, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = changed(base, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][1] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"'model.norm.weight'.*NaN"):
        tune(tmp_path / "tuned", open_artifact(folder), data)
