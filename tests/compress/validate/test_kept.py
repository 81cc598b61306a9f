"""What a validation keeps on disk."""

import os
from pathlib import Path

import pytest

from compress.validate import kept
from compress.validate.kept import Cache, Kept, by_segment, ends, take


def test_segments_cover_all_items() -> None:
    assert ends(0) == []
    assert ends(kept.SEGMENT) == [kept.SEGMENT]
    assert ends(2 * kept.SEGMENT + 1) == [kept.SEGMENT, 2 * kept.SEGMENT, 2 * kept.SEGMENT + 1]


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    made: list[tuple[int, int]] = []

    def make(begin: int, end: int) -> list[int]:
        made.append((begin, end))
        return list(range(begin, end))

    assert list(by_segment(Kept(tmp_path / "a.jsonl"), 7, make, [3, 6, 7])) == list(range(7))
    assert list(by_segment(Kept(tmp_path / "a.jsonl"), 7, make, [3, 6, 7])) == list(range(7))
    assert made == [(0, 3), (3, 6), (6, 7)]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_that_a_kill_cut_off_is_made_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    first = Kept(path)
    first.get(0, lambda: ["one"])
    whole = path.read_bytes()
    first.get(1, lambda: ["two", "\u2028"])
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    second = Kept(path)
    assert second.values == [["one"]]
    assert second.get(1, lambda: ["three"]) == ["three"]
    assert Kept(path).values == [["one"], ["three"]]


def test_a_cache_forgets_what_was_not_used_for_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path / "cache")
    folders = []
    for number in range(3):
        with cache.folder({"number": number}, ["numpy"]) as folder:
            (folder / "bytes").write_bytes(b"x" * 100)
            folders.append(folder)
        os.utime(folder, (number, number))
    monkeypatch.setattr(kept, "CACHE_BYTES", 250)
    with cache.folder({"number": 0}, ["numpy"]) as folder:
        assert folder == folders[0]
    assert [folder.is_dir() for folder in folders] == [True, False, True]


def test_other_parts_and_libraries_have_other_folders(tmp_path: Path) -> None:
    cache, found = Cache(tmp_path), set()
    for parts, libraries in (({"a": 1}, []), ({"a": 2}, []), ({"a": 1}, ["numpy"]), ({"a": 1}, ["no-such-library"])):
        with cache.folder(parts, libraries) as folder:
            found.add(folder)
    assert len(found) == 4


def test_what_is_taken_outlives_its_cache(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    take(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").unlink()
    assert (tmp_path / "b").read_text() == "x"
