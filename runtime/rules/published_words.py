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
PLAIN = frozenset(
    _words("""
above along already always anything behind being between beyond certainly consider create does doing either except
finally furthermore her here hers herself him himself imagine indeed inside instead into least moreover myself neither
nevertheless nonetheless nor note nothing okay onto ours ourselves please question regarding remember same separately
similarly so someone sometimes soon step still such ten thank thanks them themselves think though through thus
tomorrow towards try unlike upon us very via were whereas whether which whom within without yes yesterday yet your
yourself
""")
)
"""Words that Punkt saw with a capital only where a sentence began."""
TITLED = frozenset(
    _words("""
a about according across after again against all also although am among an and another answer any are around as at be
because been before below best both but by can city could day despite did do down during each even every everyone
everything few first five for four from further get go good great had has have having he his how however if in is it
its itself just keep later less let life like love made make man many may maybe me meanwhile might more most much must
my near never next no nobody not now of off often on once one only or other our out outside over own past people
perhaps picture rather sales say second see several she should since some something start sun sure take than that the
their then there these they third this those three time to today too toward two under until up use usually was we well
what when where while who why will with woman world would write year you
""")
)
"""Words that Punkt saw with a capital inside sentences too."""
AFTER_NUMBERS = frozenset(
    _words("""
abreast aes business cbot colgate commodities cooper corrections credit dividend financing genentech insider
international leisure letters notable pay-fone pegasus pepper review rj wedgestone who zimmer
""")
)
"""Words that Punkt learned to belong to the number and full stop before them."""
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
