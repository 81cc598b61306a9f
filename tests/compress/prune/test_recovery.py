"""When a pruned model is recovered, and what that takes."""

from compress.artifact import open_artifact
from compress.prune.recovery import pruning_needs
from compress.prune.width import WidthParams
from compress.recover.params import Recover
from compress.stage import Job


def test_recovery_is_on_when_much_goes():
    assert WidthParams().recovery(0.25) == Recover()
    assert WidthParams().recovery(0.05) is None
    assert WidthParams(recover=None).recovery(0.9) is None
    own = Recover(distill_steps=7)
    assert WidthParams(recover=own).recovery(0.05) == own


def test_training_takes_the_memory_adapters_less(tiny_llama, tmp_path):
    def needs(recover):
        job = Job(WidthParams(recover=recover), tmp_path, tmp_path, inputs=(open_artifact(tiny_llama),))
        return pruning_needs(job, 1 << 20).ram_bytes

    assert needs(None) < needs(Recover(lora=4)) < needs(Recover()) == needs("auto")
