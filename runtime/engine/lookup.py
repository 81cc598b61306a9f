"""Lookup decoding: what a reply will say next stands, often, in its own conversation or in an earlier reply.

Where the last tokens were written before, what followed them then is a *draft* (prompt lookup: Saxena 2023; a store of
earlier texts: He et al. 2024, REST). Text that a grammar leaves no choice about is a draft too. A step then decodes the
last token together with its draft, and the reply's own sampler chooses after each of them as ever: a drafted token
counts only where the sampler chose it (Leviathan et al. 2023, for a draft without odds of its own), so the tokens are
those of a reply without drafts, whatever the temperature. What makes that true to the last bit is `Probe`: steps are
never wider than the widest that gives the very logits of single tokens.

A draft is worth its while when the tokens that it is expected to bring are more than the time that its width costs.
Both are measured: the time of a step by its width, the share of drafted tokens taken by what the draft rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple

GRAM = 3
"""Tokens that must have been written before, in a row, for what followed them to be a draft."""
LONGEST = 12
"""Longer agreement makes a draft no more likely to be taken."""
KEPT = 1 << 16
"""Tokens of earlier replies that are remembered."""
WIDEST = 16
"""Tokens of the widest step that is tried."""
GAIN = 1.05
"""A draft must promise so much: what is expected may be wrong."""
CHEAP = 0.015
"""Share of a step that looking for drafts may take."""
SURE = 0.97
"""The odds of a drafted token at best."""
RETRY = 512
"""After so many steps in which no draft was worth it, one token is tried all the same: times change."""
_END = -1


class Written:
    """Token sequences, and where each run of `GRAM` tokens was followed by what."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Write on."""
        text, after = self._tokens, self._after
        for token in tokens:
            if len(text) >= GRAM:
                after[tuple(text[-GRAM:])] = len(text)
            text.append(token)

    def follow(self, tail: Sequence[int], most: int) -> tuple[int, list[int]]:
        """How many tokens agree with the end of ``tail``, and at most ``most`` tokens that followed them."""
        at = self._after.get(tuple(tail[-GRAM:]))
        if at is None:
            return 0, []
        agree, longest = GRAM, min(LONGEST, at, len(tail))
        while agree < longest and self._tokens[at - agree - 1] == tail[-agree - 1]:
            agree += 1
        found = self._tokens[at : at + most]
        return agree, found[: found.index(_END)] if _END in found else found


class Draft(NamedTuple):
    """Tokens that a reply may say next."""

    tokens: list[int]
    kinds: list[int]
    """For each token what it rests on: 0 a grammar, else how many tokens agreed."""


NOTHING = Draft([], [])


class Drafts:
    """Drafts for all running replies of one scheduler. Used by its thread only."""

    def __init__(self) -> None:
        self._past = [Written(), Written()]
        self._shown = [10.0] + [2.0] * LONGEST
        self._taken = [9.0] + [2.0 - 2.0 / agree for agree in range(1, LONGEST + 1)]
        self.looking = 0.0
        """Seconds of looking for one draft."""
        self.seconds = [0.0] * (WIDEST + 1)
        """Of a step by its width; 0 where it was never measured."""
        self.widest = 1
        """Tokens of the widest step whose logits are to the bit those of single tokens."""
        self._idle, self._trying = 0, False

    def worth(self, running: int) -> bool:
        """Whether a draft that is taken nearly always would pay beside ``running`` tokens, and looking for one takes no
        time to speak of: else none is looked for."""
        least = GAIN * running / self.seconds[running]
        if running * self.looking < CHEAP * self.seconds[running]:
            for more in range(1, self.widest - running + 1):
                if (running + SURE * more) / self.seconds[running + more] > least:
                    return True
        self._idle += 1
        self._trying = running == 1 and self._idle % RETRY == 0 and self.widest > 1  # only then its time is learned
        return self._trying

    def propose(self, written: Written, tail: Sequence[int], forced: Sequence[int], room: int) -> Draft:
        """At most ``room`` tokens that may follow a reply whose conversation is ``written`` and ends with ``tail``."""
        room = min(room, self.widest - 1)
        tokens = list(forced[:room])
        kinds, room = [0] * len(tokens), room - len(tokens)
        if room > 0:
            best, found = 0, tokens[:0]
            for text in (written, *self._past):
                agree, after = text.follow([*tail, *tokens] if tokens else tail, room)
                if agree > best:
                    best, found = agree, after
            tokens += found
            kinds += [best] * len(found)
        return Draft(tokens, kinds) if tokens else NOTHING

    def lengths(self, drafts: Sequence[Draft], running: int) -> list[int]:
        """How many tokens of each draft to decode beside ``running`` tokens, so that most tokens come in a second."""
        if not any(draft.tokens for draft in drafts):
            return [0] * len(drafts)
        odds = [self._odds(draft) for draft in drafts]
        order = sorted(range(len(drafts)), key=lambda number: -sum(odds[number]))
        offers = [(likely, number) for number in order for likely in odds[number]][: self.widest - running]
        lengths, chosen = [0] * len(drafts), [0] * len(drafts)
        gained, best = float(running), GAIN * running / self.seconds[running]
        for likely, number in offers:
            lengths[number] += 1
            gained += likely
            if (rate := gained / self._cost(lengths, running)) > best:
                best, chosen = rate, lengths[:]
        if self._trying and not any(chosen):
            chosen[offers[0][1]] = 1
        self._trying = False
        return chosen

    def _odds(self, draft: Draft) -> list[float]:
        """Of each token of a draft, and all before it, being taken."""
        return list(accumulate((self._taken[kind] / self._shown[kind] for kind in draft.kinds), mul))

    def _cost(self, drafted: Sequence[int], running: int) -> float:
        """Seconds of a step of so many replies, some with drafts: llama.cpp computes together as many tokens of each as
        the shortest has, then what is left of the others, and so on."""
        lengths = sorted([*(1 + number for number in drafted), *[1] * (running - len(drafted))])
        spent, before = 0.0, 0
        for number, length in enumerate(lengths):
            if length > before:
                spent += self.seconds[(running - number) * (length - before)]
                before = length
        return spent

    def looked(self, drafts: int, seconds: float) -> None:
        """Note what looking for so many drafts took."""
        self.looking += 0.05 * (seconds / drafts - self.looking)

    def learn(self, draft: Draft, taken: int) -> None:
        """Note how many tokens of a draft, decoded or not, were what the sampler chose."""
        for number, kind in enumerate(draft.kinds[: taken + 1]):
            self._taken[kind] = 0.98 * self._taken[kind] + (number < taken)
            self._shown[kind] = 0.98 * self._shown[kind] + 1

    def remember(self, tokens: Sequence[int]) -> None:
        """Keep a finished reply for later ones."""
        if len(self._past[0]) > KEPT // 2:
            self._past = [Written(), self._past[0]]
        self._past[0].add([*tokens, _END])

    def allow(self, width: int, seconds: float) -> None:
        """Steps may be that wide, and take so long; those between two measured ones by their line."""
        last, known = min(self.widest, width), self.seconds[min(self.widest, width)]
        for between in range(last + 1, width):
            self.seconds[between] = known + (seconds - known) * (between - last) / (width - last)
        self.seconds[width], self.widest = seconds, max(self.widest, width)

    def timed(self, width: int, seconds: float) -> None:
        """Note what a step took, choosing its tokens included. One that took far longer was kept waiting by somebody
        else. Steps of one token speak for all widths: whoever shares the machine slows them alike."""
        if 1 < self.widest >= width:
            known = self.seconds[width]
            now = known + 0.1 * (min(seconds, 2 * known) - known)
            if width == 1:
                self.seconds = [each * now / known for each in self.seconds]
            self.seconds[width] = now
