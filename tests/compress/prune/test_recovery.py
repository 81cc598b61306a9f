"""When a pruned model is recovered, and what that takes."""

from compress.model.outline import folder_outline
from compress.outline import Outline, Split
from compress.prune.width import WidthParams, WidthPrune
from compress.recover.params import Recover
from compress.stage import JobOutline


def test_recovery_is_on_when_much_goes():
    assert WidthParams().recovery(0.25) == Recover()
    assert WidthParams().recovery(0.05) is None
    assert WidthParams(recover=None).recovery(0.9) is None
    own = Recover(distill_steps=7)
    assert WidthParams(recover=own).recovery(0.05) == own


def test_training_takes_the_memory_adapters_less(tiny_llama):
    rows = Split(100, 1000, [{"text": "My kettle is broken."}])

    def needs(recover):
        data = Outline("data", 1000, splits={"train": rows})
        params = WidthParams(ffn=0.5, recover=recover)
        return WidthPrune().needs(JobOutline(params, (folder_outline(tiny_llama),), data=data)).ram_bytes

    assert needs(None) < needs(Recover(lora=4)) < needs(Recover()) == needs("auto")
