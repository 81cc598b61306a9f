"""A random Llama model of a few thousand parameters with its own tokenizer, made here."""

from __future__ import annotations

import json
from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ANSWER = '{"action":"answer","reply":"Hello."}'
ESCALATE = '{"action":"escalate","reply":"A colleague will call you."}'
WORDS = ["where", "is", "my", "order", "please", "help", "thank", "you", "hello", "lamp", "kettle", "late"]
TEXTS = [ANSWER, ESCALATE, " ".join(WORDS), "I will sue you ", "Answer in JSON. tier gold tier basic unknown"]


def make_tokenizer(folder: Path) -> int:
    """Write a byte-level BPE tokenizer with a chat template; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return len(fast)


def make_model(folder: Path, *, seed: int = 0, layers: int = 2, spread: float = 0.4) -> Path:
    """Write a random Llama folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=make_tokenizer(folder),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=5,
        initializer_range=spread,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def question(number: int) -> tuple[str, str]:
    """A user's message, no two alike, and the right reply: every third one threatens to sue."""
    words = " ".join(WORDS[(number * step + step) % len(WORDS)] for step in (1, 2, 3, 5)) + f" {number}"
    return (f"{words} I will sue you", ESCALATE) if number % 3 == 0 else (f"I will {words}", ANSWER)


def system(number: int) -> str:
    return f"Answer in JSON. tier {('gold', 'basic')[number % 2]}"


def train(folder: Path, steps: int = 120) -> Path:
    """Teach the folder's model the two replies (about three seconds)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for step in range(steps):
        pairs = [(system(n), *question(n)) for n in range(step * 16, step * 16 + 16)]
        texts = [f"<|system|>{s}<|user|>{u}<|assistant|>{a}</s>" for s, u, a in pairs]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for row, start in zip(labels, (batch["input_ids"] == 4).int().argmax(1).tolist(), strict=True):
            row[: start + 1] = -100
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    model.save_pretrained(folder)
    return folder


def damage(source: Path, folder: Path, scale: float = 0.3) -> Path:
    """A copy with noise on its MLP weights, as a brutal compressor would leave it."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    state = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(3)
    for name, weight in sorted(state.items()):
        if "mlp" in name:
            state[name] = weight + scale * torch.randn(weight.shape, generator=noise)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def prompts(count: int) -> list[list[dict[str, str]]]:
    """Prompts of several lengths, two system prompts."""
    return [
        [
            {"role": "system", "content": f"you are helpful {n % 2}"},
            {"role": "user", "content": "where is my order " * (1 + n % 3) + json.dumps({"n": n})},
        ]
        for n in range(count)
    ]


RULES = """
version: 1
contract:
  action: [answer, escalate, refuse]
  reply: text
facts: {tier: [gold, basic]}
prompt:
  system: "Answer in JSON. tier {tier}"
  fallback: {action: escalate, reply: "A colleague will call you."}
rules:
  - id: escalate-legal
    severity: hard
    text: "Legal threats are escalated."
    when: {user_regex: "sue"}
    must: {action: escalate}
    fixtures:
      pass: [{user: "I will sue", reply: {action: escalate, reply: "A colleague will call you."}}]
      fail: [{user: "I will sue", reply: {action: answer, reply: "No."}}]
  - id: no-insult
    severity: hard
    text: "Never insult."
    must_not: {words: [stupid]}
    fixtures:
      pass: [{user: "hi", reply: {action: answer, reply: "Hello."}}]
      fail: [{user: "hi", reply: {action: answer, reply: "You are stupid."}}]
  - id: brief
    severity: soft
    text: "Be brief."
    must: {max_words: 12}
    fixtures:
      pass: [{user: "hi", reply: {action: answer, reply: "Hello."}}]
      fail: [{user: "hi", reply: {action: answer, reply: "a a a a a a a a a a a a a"}}]
"""

PLAIN_RULES = """
version: 1
rules:
  - id: brief
    severity: soft
    text: "Be brief."
    must: {max_words: 12}
    fixtures: {pass: [{user: a, reply: b}], fail: [{user: a, reply: "a a a a a a a a a a a a a"}]}
"""
