"""Which blocks go, and which outputs the others stand in for."""

from compress.prune.depth_math import least_influential, random_blocks, stand_ins


def test_blocks_that_change_least_go_first():
    assert least_influential([0.2, 0.9, 0.5, 0.95], 2) == [3, 1]
    assert least_influential([0.5, 0.5, 0.5], 2) == [2, 1]


def test_random_blocks_differ_and_repeat():
    assert sorted(random_blocks(8, 8, 1)) == list(range(8))
    assert random_blocks(8, 3, 1) == random_blocks(8, 3, 1)
    assert random_blocks(50, 5, 1) != random_blocks(50, 5, 2)


def test_a_kept_block_stands_in_for_those_cut_after_it():
    assert stand_ins([0, 1, 2], 3) == [0, 1, 2]
    assert stand_ins([0, 3, 4], 6) == [2, 3, 5]
