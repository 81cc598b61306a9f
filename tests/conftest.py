"""Fixtures that several rooms share. Data beside the checkout is optional: its tests skip with a reason."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if _WORKER:  # a core each: two workers whose threads wait for one another on both cores take twice the time
    _CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_CORES[int(_WORKER.removeprefix("gw")) % len(_CORES)]})
# before torch loads: threads must not starve on a busy machine
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE" if _WORKER else "ACTIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0" if _WORKER else "5000")

ROOT = Path(__file__).parents[1]
settings.register_profile("busy", deadline=None, derandomize=True)
"""A machine that others use is no reason to fail, and every run draws the same examples."""
settings.load_profile("busy")
DATA = Path(os.environ.get("HOLDFAST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and small trained models; $HOLDFAST_DATA or ../shared/data."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA} (set HOLDFAST_DATA)")
    return DATA


TEXTS = [
    "My order 4821 never arrived. Where is it?",
    "I am sorry, Ana. I will trace order 4821 now.",
    "The laptop has a cracked screen and I was charged twice!",
    "Thank you for your patience; a colleague takes over.",
    "Hello, this is Ben. The kettle is broken.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer():
    """A byte-level BPE with a chat template, trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_llama(
    folder: Path, *, hidden: int = 256, ffn: int = 512, layers: int = 2, heads: int = 4, kv: int = 2
) -> Path:
    """A random Llama with its tokenizer as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """A random two-block Llama (hidden 256, FFN 512) with a byte-level BPE and a chat template."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def chat_jsonl(tmp_path_factory) -> Path:
    """Rows of {"messages"} long enough for a few calibration windows."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    rows = []
    for number in range(400):
        user, reply = TEXTS[number % 5], TEXTS[(number + 1) % 5]
        messages = [{"role": "user", "content": f"{user} Order {number}."}, {"role": "assistant", "content": reply}]
        rows.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(rows) + "\n")
    return path
