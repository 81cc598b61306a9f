"""The words of the customer-service world: who writes, about what, and how.

Every list of wordings is short on purpose: a model of a few million parameters that is trained for minutes on two
cores must learn this language whole. What it must *generalise* over are the combinations: a quarter of
the (product, issue) pairs and of the (question, request) pairs never occurs in training (``held_out``), so
no message of the evaluation has a scenario that was seen. A fifth of the names, policy ids and order numbers
never occurs in the training split; there are so many of them that they must be copied, not known. (The base
model has read names, ids and numbers of both sides, as any base model has; never a scenario of the evaluation.)
Not every message has a name or an order number: what is not there must not be answered. Threats and wishes for
a person occur in all their wordings: a model of this size learns such wordings by heart, and does not carry them
over to unseen ones.
"""

from __future__ import annotations

import hashlib
import random
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
