"""What a method trains for: its examples, and the loss of a batch of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
"""``input_ids`` and ``labels``, lists of one length, perhaps numbers, and (until ``watching``) ``GROUP``."""
Example = Sequence[Row]
"""One conversation, or the two replies of a pair."""
IGNORED = -100
GROUP = "group"
"""Key of a row that names the question; examples of one question are not split by validation."""


class Objective(ABC):
    """Subclasses say what is learnt; ``finetune.train.training`` runs it."""

    rows: int = 1
    """Rows of an example."""
    packed: bool = False
    """Whether several examples of a batch may share a row."""
    rules: Sequence[str] = ()
    """The rules that rejected replies break, where it is known."""
    agreed: list[tuple[str | None, bool]]
    """Of the pairs measured last (``watching.measure``): the rule that the rejected reply breaks, and whether the model
    prefers the chosen one."""
    seen: int = 0
    """Tokens that went through the model so far, where they are not those of the examples."""

    @abstractmethod
    def examples(self, tokenizer: Any) -> Sequence[Example]:
        """What is trained on, in the order of the data."""

    def begin(self, trainer: Any) -> None:
        """Measure what must be known of the model before training."""
        del trainer

    def prepare(self, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch with what the loss of its parts needs from the whole."""
        return inputs

    def count(self, inputs: dict[str, Any]) -> Tensor | int:
        """What the sums over a batch are divided by: the labelled tokens, where a subclass says nothing else."""
        count: Tensor = (inputs["labels"][:, 1:] != IGNORED).sum()
        return count

    @abstractmethod
    def loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The sum over a batch or a part of it."""

    def note(self) -> str:
        """What progress shows beside the loss, of the steps since the last call."""
        return ""

    def end(self, trainer: Any) -> dict[str, Any]:
        """Facts of the trained model."""
        return {}


class Labels(Objective):
    """−log p of the labelled tokens, their mean over the batch."""

    def loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        given = {name: inputs[name] for name in ("input_ids", "position_ids") if name in inputs}
        loss: Tensor = model(**given, scored_labels=inputs["labels"], use_cache=False).loss
        return loss
