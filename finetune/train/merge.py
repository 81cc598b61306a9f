"""A trained adapter merged into full precision, so that the merged model *is* the one that was trained.

An adapter trained on a 4-bit base corrects that base, rounding and all. Added to the original weights
it would correct errors that are not there, so it is merged into the dequantized 4-bit weights, and the
logits of both models are compared.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.extras import LOCAL, need
from compress.model.config import read_config, read_generation_config
from compress.model.tensors import held
from compress.model.weights import DTYPES, Weights, copy_side_files

SAVED_DTYPES = ("bfloat16", "float16", "float32", "float64")


def check_base(folder: Path) -> None:
    """What saving will need, asked before anything is trained. Raises ArtifactError naming what is wrong: weights that
    do not fit config.json, a dtype that weights cannot have, an unusable generation_config.json."""
    settings = read_config(folder).get("quantization_config")
    if settings is not None:
        method = settings.get("quant_method", "some method") if isinstance(settings, dict) else settings
        what = (
            f"{folder / 'config.json'}: the weights are quantized ({method}), and training needs them in full precision"
        )
        raise ArtifactError(what, next="give the model as it was before it was quantized")
    held(folder)
    saved_dtype(folder)
    read_generation_config(folder)


def saved_dtype(folder: Path) -> str:
    """The torch dtype in which a model tuned from ``folder`` is saved: config.json's, else that of its weights."""
    config = read_config(folder)
    declared = config.get("dtype") or config.get("torch_dtype")
    if declared in (None, "auto"):
        embedding = max(held(folder).entries.values(), key=lambda entry: entry.nbytes)
        declared = DTYPES.get(embedding.dtype)
    name = str(declared).removeprefix("torch.")
    if name not in SAVED_DTYPES:
        raise ArtifactError(
            f"{folder / 'config.json'}: dtype is {declared!r}, in which no weights can be saved",
            next=f"set dtype to one of {', '.join(SAVED_DTYPES)}",
        )
    return name


def require_finite(folder: Path) -> None:
    """Raise ArtifactError naming a tensor of ``folder`` that holds NaN or Inf; one tensor is in memory at a time."""
    weights = Weights(folder, held(folder).entries)
    for name in weights.names():
        weights.load_sound(name)


def quantization_config(compute: Any) -> Any:
    """NF4 with double quantization (Dettmers et al., 2023); products in dtype ``compute``."""
    from transformers import BitsAndBytesConfig

    need("bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def load_base(folder: Path, *, four_bit: bool, compute: Any, attention: str | None = None, on_cpu: bool = False) -> Any:
    """The base model: NF4 when ``four_bit``, otherwise in float32. On CUDA where there is one, unless ``on_cpu``.

    Its head is tied as the weights are. Its generation settings are transformers' own: the base's file is copied, and
    transformers refuses to save one that its trainer has changed.
    """
    torch = need("torch")
    from transformers import AutoModelForCausalLM, GenerationConfig

    device = torch.cuda.current_device() if torch.cuda.is_available() and not on_cpu else "cpu"
    extra: dict[str, Any] = {"quantization_config": quantization_config(compute)} if four_bit else {}
    settled = held(folder).config
    if settled.get("tie_word_embeddings") != read_config(folder).get("tie_word_embeddings"):
        extra["tie_word_embeddings"] = settled["tie_word_embeddings"]
    model, told = AutoModelForCausalLM.from_pretrained(
        folder,
        output_loading_info=True,
        device_map={"": device},
        **LOCAL,
        attn_implementation=attention,
        dtype=torch.float32,
        **extra,
    )
    missing = sorted(told["missing_keys"])
    if missing:
        what = f"{folder}: the weights hold no {missing[0]}, which a {type(model).__name__} has"
        raise ArtifactError(what, next="give the config.json of these very weights")
    model.generation_config = GenerationConfig()
    return model


def dequantized(model: Any) -> dict[str, Any]:
    """Name -> float32 weight [out, in] of every NF4 linear of ``model``."""
    bnb = need("bitsandbytes")
    return {
        f"{name}.weight": bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float().cpu()
        for name, module in model.named_modules()
        if isinstance(module, bnb.nn.Linear4bit)
    }


def multiply_as_in_training(model: Any) -> None:
    """Keep bitsandbytes from repacking NF4 weights for its bfloat16 inference kernel, which rounds more coarsely."""
    bnb = need("bitsandbytes")
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.train()


def merge(base: Path, adapter: Path, *, four_bit: bool, probes: Sequence[Sequence[int]]) -> tuple[Any, float]:
    """(merged float32 model, largest absolute difference of logits between it and the adapter model).

    ``probes`` are token sequences. Both models compute in float32.
    """
    torch = need("torch")
    from peft import PeftModel

    trained = load_base(base, four_bit=four_bit, compute=torch.float32)
    weights = dequantized(trained) if four_bit else {}
    wrapped = PeftModel.from_pretrained(trained, adapter).eval()
    if four_bit:
        multiply_as_in_training(wrapped)
    wanted = [logits(wrapped, probe) for probe in probes]
    del wrapped, trained
    full = load_base(base, four_bit=False, compute=torch.float32)
    missing = set(weights) - set(full.state_dict())
    assert not missing, f"quantized weights without a counterpart: {sorted(missing)[:3]}"
    turned = {f"{name}.weight" for name, module in full.named_modules() if type(module).__name__ == "Conv1D"}
    weights = {name: weight.T if name in turned else weight for name, weight in weights.items()}
    full.load_state_dict(weights, strict=False)
    with warnings.catch_warnings():  # GPT-2's NF4 weights lie the other way round than those that peft merges into
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        merged = PeftModel.from_pretrained(full, adapter).merge_and_unload().eval()
    gap = max(float((logits(merged, p) - w).abs().max()) for p, w in zip(probes, wanted, strict=True))
    return merged, gap


def logits(model: Any, ids: Sequence[int]) -> Any:
    """float32 [len(ids), vocabulary] on the CPU."""
    torch = need("torch")
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu()


def check_gap(gap: float, limit: float) -> None:
    """Raise when the merged model is not the trained one."""
    if not gap <= limit:
        raise ArtifactError(
            f"the merged model's logits differ from the adapter model's by {gap:.3g} (at most {limit:.3g})",
            next="merge on the machine that trained, with the same versions of bitsandbytes and peft",
        )


def save_merged(model: Any, base: Path, out: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Write a Hugging Face folder: weights in the base's dtype, its tokenizer and generation settings byte for byte.
    ``weights``: those of the model by name, in that dtype, where it is cut."""
    torch = need("torch")
    model.to(getattr(torch, saved_dtype(base))).save_pretrained(out, state_dict=weights)
    (out / "generation_config.json").unlink(missing_ok=True)
    copy_side_files(base, out)


def save_adapter(folder: Path, out: Path) -> None:
    """Keep the adapter beside the merged model, without the path of the machine it was trained on.

    peft writes sets of names in an order that changes from process to process: they are sorted.
    """
    out.mkdir()
    shutil.copyfile(folder / "adapter_model.safetensors", out / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
