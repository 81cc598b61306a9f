"""Word lists of the published verifiers and of the NLTK models that they use (all under the Apache License 2.0)."""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


SHORTENED = frozenset(
    _words("""
a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b c.v calif chg cie co col colo
conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g f.j feb fla fri ft g g.d g.f g.k ga gen h h.c h.f h.m
i.m.s ill inc j.b j.c j.j j.k j.p j.r jan jr k kan ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j maj messrs mg mich minn
mr mrs ms n n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a r.h r.i r.j r.k r.t rep
reps s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k u.n u.s u.s.a u.s.s.r v va vs vt w w.c
w.r w.va w.w wash wed wis yr
""")
)
"""Abbreviations that Punkt learned from English news text."""
OPENERS = frozenset(
    _words("""
he since so both these it nevertheless this indeed however instead under similarly some though while when in despite
although nonetheless thus there if the nor separately moreover but they yet many according sales among meanwhile even
i
""")
)
"""Words that Punkt learned to begin sentences."""
NEVER_TITLED = frozenset(
    _words("""
a about above after again all am an and any are as at because before being between can do does down during each few
for from further get go had has her here his how its just let like made make may me might more most must my no not now
once one only or other our out over own perhaps please same say see she should such take than that their them there
think through to too try up us use very was we were what which why will with you your
""")
)
"""Words that a capital marks as the first of a sentence."""
STOP_WORDS = frozenset(
    _words("""
a about above after again against ain all am an and any are aren aren't as at be because been before being below
between both but by can couldn couldn't d did didn didn't do does doesn doesn't doing don don't down during each few
for from further had hadn hadn't has hasn hasn't have haven haven't having he he'd he'll he's her here hers herself
him himself his how i i'd i'll i'm i've if in into is isn isn't it it'd it'll it's its itself just ll m ma me mightn
mightn't more most mustn mustn't my myself needn needn't no nor not now o of off on once only or other our ours
ourselves out over own re s same shan shan't she she'd she'll she's should should've shouldn shouldn't so some such t
than that that'll the their theirs them themselves then there these they they'd they'll they're they've this those
through to too under until up ve very was wasn wasn't we we'd we'll we're we've were weren weren't what when where
which while who whom why will with won won't wouldn wouldn't y you you'd you'll you're you've your yours yourself
yourselves
""")
)
"""NLTK's English stop words (after Porter's Snowball list)."""
NAMES = _words("""
Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin Harper Leo
Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria Elijah Layla
Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella Jonathan
""")
"""IFBench's fifty names."""
PRONOUNS = frozenset(
    _words("""
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
herself it its itself they them their theirs themselves
""")
)
"""IFBench's pronouns."""
CAPITALS = _words("""
Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam Warsaw London
Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb
""")
"""Europe's capitals north of 45 degrees, from north to south."""
