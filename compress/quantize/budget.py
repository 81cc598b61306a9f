"""Which way of storing each linear costs least in all within a budget of bytes.

The multiple-choice knapsack problem, solved greedily along the lower convex hulls (Shoham & Gersho, "Efficient bit
allocation for an arbitrary set of quantizers", IEEE Trans. ASSP 1988; Kellerer, Pferschy & Pisinger, "Knapsack
Problems", 2004, section 11.2): from the smallest choice on, the step that saves most loss per byte is taken as long as
it fits. Where all steps fit that is the optimum for the bytes it takes; the bytes left at the end cost at most the loss
that the first step without room would have saved. More budget never gives more loss.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from compress.errors import UsageError

MB = 1_000_000


class Option(NamedTuple):
    """One way of storing a linear: what it is called, its size in bytes and what it costs (any unit, but one)."""

    label: str
    nbytes: int
    loss: float


class _Item(NamedTuple):
    """Names that share a label, and their choices from the smallest on, each of less loss than those before."""

    names: tuple[str, ...]
    front: tuple[Option, ...]


def allocate(
    options: Mapping[str, Sequence[Option]], budget_bytes: int, groups: Sequence[Sequence[str]] = ()
) -> dict[str, Option]:
    """Name -> one of its options, with little summed loss and at most ``budget_bytes`` bytes in all.

    Names of one group get the same label (linears that a runtime fuses). Ties go to the name that stands first, then to
    the smaller option. UsageError if the smallest choice exceeds the budget (its size is named), if a name has no
    option, a loss is NaN or infinite, a group names something unknown or taken, or its members share no label.
    """
    items = _items(options, groups)
    left = budget_bytes - sum(item.front[0].nbytes for item in items)
    if left < 0:
        raise _too_small(budget_bytes, budget_bytes - left)
    chosen = [0] * len(items)
    queue = [step for index in range(len(items)) for step in _best_step(items, index, 0, left)]
    heapq.heapify(queue)
    while queue:
        _, index, target = heapq.heappop(queue)
        front, now = items[index].front, chosen[index]
        extra = front[target].nbytes - front[now].nbytes
        if extra <= left:
            left -= extra
            chosen[index] = target
        for step in _best_step(items, index, chosen[index], left):
            heapq.heappush(queue, step)
    labels = {name: item.front[at].label for item, at in zip(items, chosen, strict=True) for name in item.names}
    return {name: _labelled(choices)[labels[name]] for name, choices in options.items()}


def _best_step(items: Sequence[_Item], index: int, now: int, left: int) -> list[tuple[float, int, int]]:
    """``[(−loss saved per byte, index, option)]`` of the best step that fits from option ``now``, or []."""
    front = items[index].front
    start = front[now]
    steps = [
        ((option.loss - start.loss) / (option.nbytes - start.nbytes), index, at)
        for at, option in enumerate(front)
        if at > now and option.nbytes - start.nbytes <= left
    ]
    return [min(steps)] if steps else []


def _items(options: Mapping[str, Sequence[Option]], groups: Sequence[Sequence[str]]) -> list[_Item]:
    """The groups and the names outside them, in the order of ``options``."""
    group_of: dict[str, tuple[str, ...]] = {}
    for group in groups:
        for name in group:
            if name not in options or name in group_of:
                state = "is in two groups" if name in group_of else "has no options"
                raise UsageError(f"{name!r} of the group {', '.join(group)} {state}", next="give each linear once")
            group_of[name] = tuple(group)
    members = dict.fromkeys(group_of.get(name, (name,)) for name in options)
    return [_Item(names, _front([_labelled(options[name]) for name in names], names)) for names in members]


def _labelled(choices: Sequence[Option]) -> dict[str, Option]:
    """By label; of equal labels the first."""
    found: dict[str, Option] = {}
    for option in choices:
        found.setdefault(option.label, option)
    return found


def _front(choices: Sequence[Mapping[str, Option]], names: Sequence[str]) -> tuple[Option, ...]:
    """Sums by label, without those that another beats in both size and loss (or equals and stands before)."""
    shared = [label for label in choices[0] if all(label in other for other in choices)]
    if not shared:
        raise UsageError(f"no choice is open to {', '.join(names)} in common", next="offer them the same types")
    sums = [
        Option(label, sum(c[label].nbytes for c in choices), math.fsum(c[label].loss for c in choices))
        for label in shared
    ]
    for option in sums:
        if not math.isfinite(option.loss):
            raise UsageError(f"the loss of {option.label} for {', '.join(names)} is {option.loss}", next="leave it out")
    front: list[Option] = []
    for option in sorted(sums, key=lambda option: (option.nbytes, option.loss)):
        if not front or option.loss < front[-1].loss:
            front.append(option)
    return tuple(front)


def _too_small(budget: int, smallest: int) -> UsageError:
    return UsageError(
        f"the budget of {budget / MB:.3f} MB is too small: the smallest choice for every linear takes "
        f"{math.ceil(smallest / MB * 1000) / 1000:.3f} MB ({smallest} bytes)",
        next="raise the budget, or allow smaller types",
    )


def budget_bytes_of(budget_mb: float | None, bits_per_weight: float | None, weights: int, fixed_bytes: int) -> int:
    """Bytes that the linears may take, from one of two ways to say it.

    ``budget_mb`` (of 10⁶ bytes) is for the whole file, of which ``fixed_bytes`` are no linears; ``bits_per_weight`` is
    for the linears' ``weights`` alone, scales included. UsageError unless one of them is given, and positive, and
    something is left for the linears.
    """
    if (budget_mb is None) == (bits_per_weight is None):
        raise UsageError("a budget is either budget_mb or bits_per_weight", next="give one of the two")
    if bits_per_weight is not None:
        left = math.floor(bits_per_weight * weights / 8)
    else:
        assert budget_mb is not None
        left = math.floor(budget_mb * MB) - fixed_bytes
    if left <= 0:
        raise UsageError(
            f"nothing is left for the linears: {fixed_bytes / MB:.3f} MB of the file are fixed and the budget is "
            f"{f'{budget_mb:g} MB' if budget_mb is not None else f'{bits_per_weight:g} bits per weight'}",
            next="raise the budget",
        )
    return left
