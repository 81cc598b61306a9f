"""The words of the customer-service world: who writes, about what, and how.

Every list of wordings is short on purpose: a model of a few million parameters that is trained for minutes on two
cores must learn this language whole. What it must *generalise* over are the combinations: a quarter of
the (product, issue) pairs and of the (question, request) pairs never occurs in training (``held_out``), so
no message of the evaluation has a scenario that was seen. A fifth of the names, policy ids and order numbers
never occurs in the training split; there are so many of them that they must be copied, not known. (The base
model has read names, ids and numbers of both sides, as any base model has; never a scenario of the evaluation.)
Not every message has a name or an order number: what is not there must not be answered. Threats and wishes for
a person occur in all their wordings: a model of this size learns such wordings by heart, and does not carry them
over to unseen ones. For a model that knows English there is the hard form (``Words``, ``HARD``): more wordings of
threats, wishes and requests, of which those of the evaluation never occur in training, nor do some of their nouns.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

PRODUCTS = (
    "router", "laptop", "phone", "blender", "camera", "headset", "kettle", "printer", "monitor", "tablet", "speaker",
    "lamp", "drone", "toaster", "keyboard", "scanner", "mixer", "heater", "fridge", "watch", "charger", "microphone",
    "projector", "vacuum",
)  # fmt: skip

OTHER_PRODUCTS = (
    "bicycle", "guitar", "mattress", "backpack", "jacket", "mirror", "ladder", "piano", "drill", "tent", "sofa",
    "helmet", "clock", "freezer", "oven", "fan", "desk", "chair", "bottle", "ring", "scale", "pump", "torch", "violin",
    "saw", "stove", "carpet", "candle", "suitcase", "umbrella",
)  # fmt: skip
"""Products of other houses: they occur in what the base model reads, never in training or evaluation."""

ISSUES = {
    "broken": (
        "is broken", "stopped working", "does not turn on", "keeps crashing", "makes a loud noise", "just died",
        "won't switch on",
    ),
    "missing": (
        "never arrived", "was not delivered", "is still missing", "got lost on the way", "has not come yet",
        "didn't show up", "is nowhere to be seen",
    ),
    "damaged": (
        "has a cracked screen", "arrived with a dent", "came scratched", "has a bent corner", "leaks water",
        "came in pieces", "has a big crack",
    ),
    "money": (
        "was charged twice", "shows the wrong price", "was billed by mistake", "cost too much", "was paid double",
        "is on my bill twice", "was more than you said",
    ),
}  # fmt: skip
"""Topic -> how customers put it after "my <product>"."""

HANDLING = {
    "broken": ("repair", "support"),
    "damaged": ("replace", "support"),
    "missing": ("trace", "logistics"),
    "money": ("refund", "billing"),
}
"""Topic -> (action, queue)."""

OPENINGS = (
    "Hi", "Hello", "Good morning", "Hey there", "Dear team", "Good evening", "Hello again", "Hi team", "Hey",
    "Good afternoon",
)  # fmt: skip
INTRODUCTIONS = ("this is {name}", "my name is {name}", "{name} here", "I am {name}", "I'm {name}", "it's {name}")
ORDER_LINES = (
    "Order #{order}.", "The order is #{order}.", "It is order #{order}.", "My order: #{order}.", "Order {order}.",
    "Order number {order}.",
)  # fmt: skip
ORDER_NAMES = ("order #{order}", "order {order}", "order number {order}", "order no. {order}")
"""How an order is named inside a sentence."""
TIMES = ("", "", " yesterday", " today", " this morning", " last week", " again")
CLOSINGS = ("Thanks", "Regards", "Best regards", "Cheers", "Thank you")
CARD_LINES = ("My card is {card}.", "I paid with card {card}.")

LAWYERS = ("lawyer", "solicitor", "barrister", "legal adviser", "family lawyer", "notary")
LEGAL = (
    "I will call my {x}", "my {x} will contact you", "you will hear from my {x}", "I have sent this to my {x}",
    "my {x} will take you to court", "I am going to sue you with my {x}", "my {x} is preparing a lawsuit",
    "expect a letter from my {x}", "I'm calling my {x} now", "next you hear from my {x}",
)  # fmt: skip
"""Threats: escalated to the legal team."""
LEGAL_NEAR = (
    "my brother is a {x}", "I work as a {x}", "a {x} lives next door", "I bought it for my {x}",
    "my sister wants to be a {x}", "it is a present for a {x}", "I share the office with a {x}",
    "my {x} has the same one",
)  # fmt: skip
"""The same nouns without a threat."""

PEOPLE = ("a human", "a manager", "a supervisor", "a real person", "a team leader", "a senior manager")
HUMAN = (
    "I want to talk to {x}", "let me speak to {x}", "get me {x} now", "please connect me with {x}",
    "I need {x} on the line", "put {x} on the phone", "I will only deal with {x}", "can I talk to {x}",
    "can I talk to {x} please", "could I speak with {x}", "I'd like to speak to {x}", "is there {x} I can talk to",
)  # fmt: skip
"""Wishes for a person: escalated to a supervisor."""
HUMAN_NEAR = (
    "{x} at the shop was kind", "it was packed by {x}", "I am {x} too", "my cousin is {x}", "{x} sold it to me",
    "it is a present for {x}", "I saw {x} open the box", "even {x} could not open it",
)  # fmt: skip
"""The same nouns without the wish."""

ASKS = (
    "how do I {x}", "tell me how to {x}", "please help me {x}", "show me how to {x}", "I want to {x}",
    "what is the best way to {x}", "can you explain how to {x}", "I need to {x}",
)  # fmt: skip
DISALLOWED = (
    "open someone else's account", "fake a receipt", "use a stolen card", "read my neighbour's orders",
    "skip the payment", "get another customer's card", "change a stranger's address", "cheat the return desk",
)  # fmt: skip
"""Requests that are refused."""
ALLOWED = (
    "open my own account", "print a receipt", "use a second card", "read my orders", "see the payment",
    "get a customer card", "change my address", "find the return desk",
)  # fmt: skip
"""Their harmless twins: answered."""


@dataclass(frozen=True)
class Words:
    """Wordings of one kind of message in the hard form: frames with a place ``{x}``, and what stands there.

    The evaluation draws from ``held_frames``, and from both lists of nouns; training never sees the held ones.
    For requests (``disallowed``, ``allowed``) it is the nouns, the requests themselves, that are never shared.
    """

    frames: tuple[str, ...]
    held_frames: tuple[str, ...]
    nouns: tuple[str, ...]
    held_nouns: tuple[str, ...]
    nouns_shared: bool = True

    def pairs(self, evaluation: bool) -> list[tuple[str, str]]:
        """Every (frame, noun) of one side."""
        if not evaluation:
            return [(frame, noun) for frame in self.frames for noun in self.nouns]
        frames = self.held_frames if self.nouns_shared else (*self.frames, *self.held_frames)
        nouns = (*self.nouns, *self.held_nouns) if self.nouns_shared else self.held_nouns
        return [(frame, noun) for frame in frames for noun in nouns]


_HELD_LAWYERS = ("attorney", "tax lawyer", "legal counsel")
_HELD_PEOPLE = ("a real human", "a duty manager", "a live person")
_HELD_ASKS = ("is there a way to {x}", "I'd like to know how to {x}", "what must I do to {x}", "could you help me {x}")

HARD: Mapping[str, Words] = {
    "legal": Words(
        (
            *LEGAL,
            "I will take legal action through my {x}", "my {x} says I should sue you", "I have asked my {x} to act",
            "this is now a matter for my {x}", "my {x} will file a claim against you", "I'll let my {x} deal with you",
            "my {x} advised me to press charges", "I have hired a {x} against you", "otherwise my {x} writes to you",
            "I will see you in court with my {x}", "do I need to set my {x} on you", "my {x} has started a lawsuit",
            "one more day and I go to my {x}", "my {x} will hold you liable",
        ),
        (
            "I am handing the case over to my {x}", "my {x} will be in touch with you", "I will sue, my {x} is ready",
            "your firm will get a letter from my {x}", "I have told my {x} to take legal steps",
            "my {x} is drawing up a claim against you", "we meet in court, my {x} and you",
            "I'm getting my {x} involved",
            "my {x} will take this further", "I shall bring my {x} into this",
        ),
        LAWYERS, _HELD_LAWYERS,
    ),
    "legal_near": Words(
        (
            *LEGAL_NEAR,
            "my uncle the {x} gave it to me", "I used to be a {x}", "it stood on the desk of my {x}",
            "my {x} likes the colour", "a {x} recommended your shop", "my wife works for a {x}",
            "the box was signed for by a {x}", "I bought it from a {x}", "I was at my {x} when it came",
            "I use it to write to my {x}", "my {x} also shops with you", "I am a {x} and use it every day",
            "I lent it to my {x} for a week", "I met my {x} for lunch", "it is for my work as a {x}",
            "my son gave it to a {x} he knows", "my {x} told me how good your shop is", "a {x} bought the same one",
        ),
        (
            "my neighbour is a {x}", "my daughter studies to become a {x}", "it was meant for a friend, a {x}",
            "my {x} bought one last year", "I met a {x} in your shop", "the previous owner was a {x}",
            "I gave one to my {x} for Christmas", "my husband is a {x} too", "as a {x} I need it for work",
        ),
        LAWYERS, _HELD_LAWYERS,
    ),
    "human": Words(
        (
            *HUMAN,
            "I would rather talk to {x}", "hand me over to {x}", "I want {x}, not a machine", "could {x} call me",
            "please pass me on to {x}", "stop the bot and give me {x}", "I prefer to speak with {x}",
            "may I speak to {x}", "no more robots, get me {x}", "I demand to speak to {x}", "transfer me to {x}",
            "let {x} answer me", "I am done with bots, I want {x}", "I expect {x} to ring me",
        ),
        (
            "I insist on talking to {x}", "can you put me through to {x}", "please have {x} ring me",
            "I'd like {x} to call me back", "would you let me talk with {x}", "I need to speak with {x}",
            "forward me to {x}", "where can I reach {x}", "I only want to hear from {x}", "give me {x} please",
        ),
        PEOPLE, _HELD_PEOPLE,
    ),
    "human_near": Words(
        (
            *HUMAN_NEAR,
            "{x} told me to write here", "{x} carried it to my car", "I gave it to {x} at work",
            "my father was {x} all his life", "{x} showed me how it works", "it belongs to {x} in my office",
            "I thought {x} had checked it", "{x} wrapped it nicely", "{x} already looked at it",
            "I spoke to {x} and was told to wait",
            "I was served by {x}", "my friend became {x} last year",
        ),
        (
            "{x} helped me in the shop", "my aunt is {x}", "it was a gift from {x}", "{x} picked it for me",
            "I work as {x} myself", "{x} next door has the same one", "I bought it for {x} I know",
            "{x} tested it before I left", "I watched {x} pack it",
        ),
        PEOPLE, _HELD_PEOPLE,
    ),
    "disallowed": Words(
        ASKS, _HELD_ASKS,
        (
            *DISALLOWED,
            "hack a customer's account", "return a used item as new", "get a refund for something I never bought",
            "pay with somebody else's card", "find out where a customer lives", "forge an invoice",
            "use a false name for a second discount", "say that a parcel never came although it did",
            "see what a stranger ordered", "copy a gift card", "get into my boss's account",
            "change the price before I pay", "send back an empty box", "lie about a damage to get money",
            "trick the checkout", "read another customer's messages", "steal a parcel", "use my neighbour's password",
            "pay with fake money", "order in somebody else's name", "get a colleague's phone number from your files",
            "break something and get it replaced for free", "guess a stranger's password",
            "avoid paying for my order",
            "get past the checkout without paying", "learn what password my boss uses",
            "take a parcel of the neighbours",
            "pay with a card I found", "make up a reason for a refund", "print a false gift card",
            "ask for money back twice", "log in as another person",
        ),
        (
            "log in to somebody else's account", "make a false receipt", "pay with a card that is not mine",
            "look up another customer's address", "get a refund with a lie", "read my neighbour's messages",
            "find out a customer's password", "get around the payment", "use a forged gift card",
            "send back a fake item", "open a stranger's parcel", "steal a discount", "hack the checkout",
        ),
        nouns_shared=False,
    ),
    "allowed": Words(
        ASKS, _HELD_ASKS,
        (
            *ALLOWED,
            "log in to my account", "return an unused item", "get a refund for something I bought",
            "pay with my own card", "find out where my parcel is", "get an invoice", "use my first discount",
            "say that a parcel came too late", "see what I ordered last year", "buy a gift card", "reset my password",
            "compare the prices before I pay", "send back a wrong box", "report a damage", "go to the checkout",
            "read my messages", "track a parcel", "choose a new password", "pay with paper money",
            "order in my own name",
            "get your phone number", "get something replaced", "guess the delivery day", "pay for my order later",
            "get to the checkout faster", "learn what my password must look like", "take a parcel back to the shop",
            "pay with a card from my bank", "give a reason for a refund", "print a gift card for my mother",
            "ask for the money for a return", "log in on my phone", "get into my account with a new phone",
            "leave a comment on my order",
        ),
        (
            "get into my own account", "get a copy of my receipt", "pay with a card that is new", "look up my address",
            "get a refund for a late parcel", "read your messages", "find my password", "choose the payment",
            "use a gift card", "send back an item", "pick up a parcel", "use a discount", "leave the checkout",
        ),
        nouns_shared=False,
    ),
}  # fmt: skip
"""Kind -> its wordings in the hard form."""

NAME_STARTS = (
    "Mar", "Sel", "Tor", "Bel", "Kar", "Lin", "Dar", "Nor", "Ros", "Val", "Jor", "Fen", "Hal", "Mil", "San", "Wil",
)  # fmt: skip
NAME_MIDDLES = ("", "am", "ev", "ig", "ot", "ul")
NAME_ENDS = ("a", "en", "o", "is", "ina", "us")
FIRST_NAMES = (
    "Adam", "Alex", "Alice", "Amir", "Anna", "Anton", "Asha", "Ben", "Bob", "Carla", "Carlos", "Chris", "Clara", "Dan",
    "David", "Diego", "Elena", "Ella", "Emil", "Emma", "Eric", "Eva", "Fatima", "Felix", "Frank", "George", "Grace",
    "Greta", "Hannah", "Harry", "Helen", "Hugo", "Ian", "Ines", "Ivan", "Jack", "James", "Jana", "Jim", "Joe", "John",
    "Julia", "Kate", "Kim", "Lara", "Laura", "Lea", "Leo", "Lisa", "Louis", "Lucy", "Luis", "Marie", "Mark", "Max",
    "Maya", "Mia", "Mike", "Nadia", "Nick", "Nina", "Oliver", "Omar", "Oscar", "Paul", "Peter", "Petra", "Priya",
    "Rita", "Robert", "Rosa", "Ruth", "Sam", "Sara", "Simon", "Sofia", "Steve", "Susan", "Tara", "Theo", "Tina", "Tom",
    "Uma", "Vera", "Victor", "Wendy", "Yusuf", "Zoe",
)  # fmt: skip
NAMES = tuple(
    dict.fromkeys(
        [
            *FIRST_NAMES,
            *(start + middle + end for start in NAME_STARTS for middle in NAME_MIDDLES for end in NAME_ENDS),
        ]
    )
)
POLICIES = tuple(letter + digit for letter in "CFJLQSVWXYZ" for digit in "0123456789")
ORDER_LETTERS = "ABDEGHKMNRT"
"""Not those of the policies, nor the P of the priorities."""
ORDER_SHAPES = ("L##", "####", "#####", "######", "L####")
"""What order numbers look like: a letter for L, a digit for #."""

TIERS = ("gold", "silver", "basic")
URGENCIES = ("low", "high")


def held_out(i: int, j: int) -> bool:
    """Whether the pair (row i, column j) of a grid is kept for the evaluation.

    A quarter of the pairs, spread as in a Latin square, so that each row and each column is still
    seen in training.
    """
    return (i + j) % 4 == 0


def pairs(rows: tuple[str, ...], columns: tuple[str, ...], evaluation: bool) -> list[tuple[str, str]]:
    """The (row, column) pairs of one side of the split, in a fixed order."""
    return [(a, b) for i, a in enumerate(rows) for j, b in enumerate(columns) if held_out(i, j) == evaluation]


def kept_for_evaluation(text: str) -> bool:
    """Whether a name, policy id or order number is kept for the evaluation: one in five, by its hash."""
    return hashlib.sha256(text.encode()).digest()[0] % 5 == 0


@cache
def share(items: tuple[str, ...], evaluation: bool | None) -> list[str]:
    """One side of a list, or all of it for None."""
    return [item for item in items if evaluation is None or kept_for_evaluation(item) == evaluation]


def order_number(rng: random.Random, evaluation: bool | None) -> str:
    """A random order number of one side of the split, or of either for None."""
    while True:
        shape = rng.choice(ORDER_SHAPES)
        start = rng.choice(ORDER_LETTERS) if shape.startswith("L") else rng.choice("123456789")
        number = start + "".join(rng.choice("0123456789") for _ in shape[1:])
        if evaluation is None or kept_for_evaluation(number) == evaluation:
            return number
