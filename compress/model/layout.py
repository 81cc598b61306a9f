"""What a row of ``compress/model/families.py`` says: the names inside a model folder and how its config is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from compress.errors import ArtifactError, UnsupportedArchitecture
from compress.model.rotary import FULL, SLIDING
from compress.outline import Shape

Settings = dict[str, Any]
"""A config in Llama's names, with the family's defaults filled in."""
Sizes = dict[str, tuple[int, ...]]
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)
ALWAYS = ""
"""Instead of an option: a bias that every model of the family has."""
OF_SOME = frozenset(
    {
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "query_pre_attn_scalar",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
    }
)
"""Keys that only families with a default for them have; transformers ignores them elsewhere."""
COMMON: Mapping[str, Any] = {"hidden_act": "silu", "norm_eps": 1e-6, "tie_word_embeddings": False}


def shape_of(settings: Settings) -> Shape:
    """Sizes of a model by its settings."""
    return Shape(
        blocks=settings["num_hidden_layers"],
        hidden=settings["hidden_size"],
        ffn=settings["intermediate_size"],
        heads=settings["num_attention_heads"],
        kv_heads=settings["num_key_value_heads"],
        head_dim=settings["head_dim"],
        vocab=settings["vocab_size"],
    )


class Part(NamedTuple):
    """Output rows ``[start, stop)`` of the ``[out, in]`` weight of the linear ``name``."""

    name: str
    start: int
    stop: int


class Attention(NamedTuple):
    """What a block's attention needs beside its tensors."""

    head_dim: int
    scale: float
    softcap: float | None
    window: int | None
    kind: str


class Norms(NamedTuple):
    """Norms of one block: before attention and FFN, and where the family has them on their outputs."""

    attention: str
    ffn: str
    attention_out: str | None = None
    ffn_out: str | None = None


_LLAMA_NORMS = Norms("input_layernorm", "post_attention_layernorm")


def every(settings: Settings, kind: str) -> list[str]:
    """``layer_types`` of a model whose blocks are all of one kind."""
    return [kind] * settings["num_hidden_layers"]


@dataclass(frozen=True)
class BlockLayout:
    """Names inside a model folder (those of linears and norms: inside a block), and what the family computes."""

    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Three linears, or one that holds queries, keys and values in this order."""
    out: str = "self_attn.o_proj"
    ffn: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """The linears whose output channels are the FFN's (gate before up if fused); ``down`` reads those channels."""
    down: str = "mlp.down_proj"
    gated: bool = True
    norms: Norms = _LLAMA_NORMS
    qk_norms: tuple[str, str] | None = None
    norm_offset: float = 0.0
    """Added to the RMS norms' weights."""
    conv1d: bool = False
    """Block linears are stored ``[in, out]``."""
    ffn_times_hidden: int = 0
    """The FFN's width over hidden where config.json does not say it."""
    rotary: bool = True
    scales_embedding: bool = False
    """Embeddings are multiplied by √hidden."""
    prefix: str = "model."
    """Before the names of all but the head; some folders leave it out."""
    stack: str = "layers"
    embedding: str = "embed_tokens"
    positions: str | None = None
    """The table of learned positions."""
    norm: str = "norm"
    head: str = "lm_head"
    keys: Mapping[str, str] = field(default_factory=lambda: {"norm_eps": "rms_norm_eps"})
    """Llama's name -> this family's name in config.json."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers takes where config.json is silent."""
    biased: Mapping[str, str] = field(default_factory=dict)
    """Linear of a block -> the option of config.json that gives it a bias; ALWAYS where none can take it away."""
    norm_biases: bool = False
    """Norms have a bias, always."""
    partial: bool = False
    """Whether ``partial_rotary_factor`` leaves dimensions of a head unturned; transformers ignores it elsewhere."""
    finish: Callable[[Settings], None] = lambda settings: settings.update(layer_types=every(settings, FULL))
    """Completes the settings: ``layer_types`` at least."""
    own_layer_types: bool = False
    """Whether transformers reads ``layer_types`` of this family's config.json."""
    renamed: tuple[str, str] | None = None
    """A key of config.json by which transformers takes the model for another, and that one's name."""
    refused: tuple[str, ...] = ()
    """Options of config.json that change the computation in a way not known here."""

    @property
    def inputs(self) -> tuple[tuple[str, ...], ...]:
        """Linears of one block, grouped by the tensor that they read."""
        return self.qkv, (self.out,), self.ffn, (self.down,)

    @property
    def blocks(self) -> str:
        """Name of the module that holds the blocks."""
        return self.prefix + self.stack

    @property
    def embed(self) -> str:
        """Name of the token embedding."""
        return self.prefix + self.embedding

    @property
    def final_norm(self) -> str:
        """Name of the norm before the head."""
        return self.prefix + self.norm

    def linears(self) -> tuple[str, ...]:
        """Every linear of a block, in the order of its computation."""
        return tuple(name for group in self.inputs for name in group)

    @property
    def bare(self) -> BlockLayout:
        """The names without the prefix."""
        return replace(self, prefix="")

    def spelled(self, names: Iterable[str]) -> BlockLayout:
        """The names as a folder that holds ``names`` spells them (with or without the prefix)."""
        first = f"{self.bare.blocks}.0.{self.norms.attention}.weight"
        return self.bare if first in names else self

    def tensors(self, settings: Settings, *, tied: bool) -> tuple[Sizes, Sizes]:
        """Full name -> shape (linears ``[out, in]``) of every tensor that must be there, and of those biases that the
        config switches on, which transformers takes for zero where they are absent."""
        shape, block, biases = shape_of(settings), dict[str, tuple[int, ...]](), dict[str, tuple[int, ...]]()
        for name, (out, width) in self.sizes(shape).items():
            block[f"{name}.weight"] = (out, width)
            switch = self.biased.get(name)
            if switch is not None:
                target = block if switch == ALWAYS else biases if settings.get(switch) else {}
                target[f"{name}.bias"] = (out,)
        kinds = ("weight", "bias") if self.norm_biases else ("weight",)
        block |= {f"{name}.{kind}": (shape.hidden,) for name in self.norms if name for kind in kinds}
        block |= {f"{name}.weight": (shape.head_dim,) for name in self.qk_norms or ()}
        outside: dict[str, tuple[int, ...]] = {f"{self.embed}.weight": (shape.vocab, shape.hidden)}
        outside |= {f"{self.final_norm}.{kind}": (shape.hidden,) for kind in kinds}
        if self.positions:
            outside[f"{self.prefix}{self.positions}.weight"] = (settings["max_position_embeddings"], shape.hidden)
        if not tied:
            outside[f"{self.head}.weight"] = (shape.vocab, shape.hidden)
        blocks = [f"{self.blocks}.{number}." for number in range(shape.blocks)]
        return (
            outside | {at + name: size for at in blocks for name, size in block.items()},
            {at + name: size for at in blocks for name, size in biases.items()},
        )

    def sizes(self, shape: Shape) -> dict[str, tuple[int, int]]:
        """Linear of a block -> ``(out, in)``."""
        found = {part.name: (part.stop, shape.hidden) for part in self.parts(shape).values()}
        return found | {self.out: (shape.hidden, shape.heads * shape.head_dim), self.down: (shape.hidden, shape.ffn)}

    def stored(self, name: str, size: tuple[int, ...], packed: bool) -> tuple[int, ...]:
        """Shape in the folder of the tensor with full name ``name`` and shape ``size``; codes are never transposed."""
        turned = self.conv1d and not packed and name.startswith(f"{self.blocks}.")
        return size[::-1] if turned else size

    def switch_of(self, name: str) -> str | None:
        """The option of config.json that gives a block the bias ``name``; None where no option does."""
        inside = name.removeprefix(f"{self.blocks}.").partition(".")[2]
        return self.biased.get(inside.removesuffix(".bias")) or None

    def parts(self, shape: Shape) -> dict[str, Part]:
        """Role (q, k, v, gate, up) -> rows of a linear, named as inside a block."""
        kv = shape.kv_heads * shape.head_dim
        attention = {"q": shape.heads * shape.head_dim, "k": kv, "v": kv}
        channels = {"gate": shape.ffn, "up": shape.ffn} if self.gated else {"up": shape.ffn}
        return {**_rows(self.qkv, attention), **_rows(self.ffn, channels)}

    def reads(self, key: str) -> bool:
        """Whether transformers reads ``key`` in this family's config.json: some change what is computed in one family
        and nothing in the others."""
        return key not in OF_SOME or key in self.defaults

    def own(self, settings: Any, name: str) -> Any:
        """The value that transformers' ``settings`` object has for Llama's ``name``; None where the family has none."""
        return getattr(settings, self.keys.get(name, name), None) if self.reads(name) else None

    def settings(self, config: Mapping[str, Any]) -> Settings:
        """``config`` in Llama's names with defaults; ArtifactError naming a size that is missing."""
        renamed = {name: config[key] for name, key in self.keys.items() if key in config}
        same = {key: value for key, value in config.items() if key not in self.keys and self.reads(key)}
        settings = {**COMMON, **self.defaults, **same, **renamed}
        if settings.get("num_key_value_heads") is None:
            settings["num_key_value_heads"] = settings.get("num_attention_heads")
        for size in SIZES:
            if not isinstance(settings.get(size), int) and not (size == "intermediate_size" and self.ffn_times_hidden):
                key = self.keys.get(size, size)
                what = f"config.json lacks a valid size: {key} is {settings.get(size)!r}"
                raise ArtifactError(what, next="give a complete config.json")
        if settings.get("intermediate_size") is None:
            settings["intermediate_size"] = self.ffn_times_hidden * settings["hidden_size"]
        if settings.get("head_dim") is None:
            settings["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
        if self.renamed is not None and self.renamed[0] in config:
            (key, name), kind = self.renamed, settings.get("model_type")
            raise UnsupportedArchitecture(
                f"config.json: with {key} transformers takes a {kind} for a {name}, which is not known",
                next=f"remove {key} if the model was trained without it",
            )
        self.finish(settings)
        self._check_rotary(settings)
        return settings

    def _check_rotary(self, settings: Settings) -> None:
        """``partial_rotary_factor`` where nothing in transformers reads it (or, with a scaling, fails by it)."""
        given = [settings.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
        nested = [kind for rope in given for kind in rope.values() if isinstance(kind, dict)]
        places = [settings, *given, *nested]
        part = next((place["partial_rotary_factor"] for place in places if place.get("partial_rotary_factor")), 1)
        if part != 1 and self.rotary and not self.partial:
            raise UnsupportedArchitecture(
                f"config.json: partial_rotary_factor is {part}, which {settings.get('model_type')} models do not have",
                next="remove it if the model turns whole heads (transformers ignores it); else use another model_type",
            )

    def attention(self, settings: Settings, block: int) -> Attention:
        """Scale, cap, window and kind of a block's attention."""
        scale = float(settings.get("query_pre_attn_scalar") or settings["head_dim"]) ** -0.5
        if not settings.get("scale_attn_weights", True):
            scale = 1.0
        if settings.get("scale_attn_by_inverse_layer_idx"):
            scale /= block + 1
        kind = settings["layer_types"][block]
        window = settings.get("sliding_window") if kind == SLIDING else None
        return Attention(settings["head_dim"], scale, settings.get("attn_logit_softcapping"), window, kind)

    def fixed_heads(self, settings: Settings) -> bool:
        """Whether the number of heads cannot change while head_dim stays (no such key, or a table of its size)."""
        return not self.rotary or "short_factor" in (settings.get("rope_parameters") or {})


def _rows(linears: tuple[str, ...], sizes: Mapping[str, int]) -> dict[str, Part]:
    if len(linears) == len(sizes):
        return {role: Part(name, 0, size) for name, (role, size) in zip(linears, sizes.items(), strict=True)}
    parts, start = {}, 0
    for role, size in sizes.items():
        parts[role] = Part(linears[0], start, start + size)
        start += size
    return parts
