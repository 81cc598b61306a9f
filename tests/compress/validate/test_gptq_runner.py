import json
import shutil
from pathlib import Path

import numpy as np
from validate_models import prompts

from compress.validate.in_torch import HfRunner
from compress.validate.runners import open_runner


def write_gptq(source: Path, folder: Path) -> Path:
    """Round every block linear to 8 bits in groups of 32 and store it as AutoGPTQ does; returns the folder."""
    import torch
    from safetensors.torch import load_file, save_file

    from compress.quantize.packing import pack
    from compress.quantize.recipe import Recipe

    shutil.copytree(source, folder)
    stored = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name] = weight
            continue
        columns = weight.float().T.reshape(-1, 32, weight.shape[0])
        scales = (columns.abs().amax(1) / 127).half()
        codes = (columns / scales.float()[:, None]).round().clamp(-127, 127) + 128
        module = name.removesuffix(".weight")
        stored[f"{module}.qweight"] = pack(codes.reshape(-1, weight.shape[0]).to(torch.uint8), 8)
        zeros = torch.full_like(scales, 127, dtype=torch.uint8)
        stored[f"{module}.qzeros"] = pack(zeros.T.contiguous(), 8).T.contiguous()
        stored[f"{module}.scales"] = scales
        stored[f"{module}.g_idx"] = (torch.arange(weight.shape[1]) // 32).to(torch.int32)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = Recipe(8, 32, True).config()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_packed_weights_are_judged_exactly(tiny_hf: Path, tmp_path: Path) -> None:
    import torch

    folder = write_gptq(tiny_hf, tmp_path / "gptq")
    with open_runner("gptq", folder) as packed, HfRunner(tiny_hf) as plain:
        assert isinstance(packed, HfRunner)
        assert (packed.timed, packed.note) == (False, "judged from dequantized weights")
        ids = plain.encode(prompts(1)[0])
        assert packed.encode(prompts(1)[0]) == ids
        with torch.no_grad():
            for name, weight in plain.model.named_parameters():
                if name.endswith("_proj.weight"):
                    grouped = weight.T.reshape(-1, 32, weight.shape[0])
                    scale = (grouped.abs().amax(1) / 127).half().float()[:, None]
                    weight.copy_(((grouped / scale).round().clamp(-127, 127) * scale).reshape(weight.T.shape).T)
        assert np.array_equal(packed.logits(ids), plain.logits(ids))
        assert packed.complete(prompts(3), 6) == plain.complete(prompts(3), 6)
