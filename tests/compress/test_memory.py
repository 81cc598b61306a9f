import subprocess
import sys

from compress.memory import peak_bytes, peak_bytes_with_children


def test_peak_memory_is_this_process_image_alone() -> None:
    """A fat parent must not show in the child (``ru_maxrss`` survives ``exec``)."""
    fat = bytearray(200_000_000)
    code = "from compress.memory import peak_bytes; print(peak_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert peak_bytes() > len(fat)
    assert 5_000_000 < child < 190_000_000


def test_the_peak_of_a_child_counts_where_it_is_asked_for() -> None:
    before = peak_bytes_with_children()
    subprocess.run([sys.executable, "-c", f"bytearray({before + 50_000_000})"], check=True)
    assert peak_bytes() < before + 50_000_000 < peak_bytes_with_children()
