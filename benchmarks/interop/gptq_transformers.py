"""Our GPTQ folder in transformers + gptqmodel against its exactly dequantized weights.

A folder with more than one width (``dynamic``) is loaded by GPTQModel itself: optimum 2.3, through which transformers
loads GPTQ, knows one width only.

Run with the peer's Python (see benchmarks/README.md): gptq_transformers.py GPTQ_FOLDER FLOAT_FOLDER PROMPTS.jsonl [N]
Prints the largest logit difference relative to the logits' spread and how many greedy first tokens agree.
FLOAT_FOLDER is the model before quantization (architecture and tokenizer); PROMPTS has {"text"} or {"messages"} rows.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
sys.path.insert(0, str(Path(__file__).parents[2]))


def load_kernel(folder: Path):
    """The folder with its weights packed."""
    import torch
    from transformers import AutoModelForCausalLM

    if "dynamic" not in json.loads((folder / "quantize_config.json").read_text()):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu").eval()
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH).model.float().eval()


def main() -> None:
    """One JSON line; exit status 1 if the kernel's logits are not those of the dequantized weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from compress.quantize.packing import dequantize_folder

    folder, source, prompts = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 100
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in prompts.read_text().splitlines()[:count]]
    exact = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    exact.load_state_dict(dequantize_folder(folder), strict=False)
    kernel = load_kernel(folder)
    agree, worst = 0, 0.0
    for row in rows:
        if "messages" in row:
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
        else:
            text = row["text"][:200]
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, :256]
        with torch.inference_mode():
            a, b = exact(ids).logits[0].float(), kernel(ids).logits[0].float()
        agree += int(a[-1].argmax() == b[-1].argmax())
        worst = max(worst, float((a - b).abs().max() / a.std()))
    kind = type(next(m for n, m in kernel.named_modules() if n.endswith("q_proj"))).__name__
    result = {"prompts": len(rows), "kernel": kind, "first_tokens_agree": agree, "largest_difference": round(worst, 5)}
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.exit(worst > 0.1)


if __name__ == "__main__":
    main()
