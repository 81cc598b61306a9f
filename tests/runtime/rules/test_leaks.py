"""Numbers that must not be shown, and what only looks like one."""

from __future__ import annotations

import pytest

from runtime.rules.leaks import FINDERS
from runtime.rules.text import plain

SHOWN = {
    "card": [
        "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "4111.1111.1111.1111",
        "card:4111111111111111",
        "4111|1111|1111|1111", "4111_1111_1111_1111", "(4111)(1111)(1111)(1111)", "4111\n1111\n1111\n1111",
        "order 12345, 4111 1111 1111 1111, 12/27", "**4111** **1111** **1111** **1111**", "\uff14111111111111111",
        "4111\u200b1111\u200b1111\u200b1111", "`4111` `1111` `1111` `1111`", "3782 822463 10005", "x4111111111111111x",
    ],
    "iban": [
        "DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "de89-3704-0044-0532-0130-00",
        "IBANDE89370400440532013000",
        "IBAN:DE89.3704.0044.0532.0130.00", "GB29 NWBK 6016 1331 9268 19 please", "NL91ABNA0417164300/X",
        "DE89\n3704\n0044\n0532\n0130\n00", "konto_DE89370400440532013000_ok", "FR14 2004 1010 0505 0001 3M02 606",
    ],
    "email": [
        "ann@example.org", "Ann.Lee+x@mail.example.co.uk", "ann (at) example (dot) org", "ann[at]example.org",
        "mailto:ann@example.org?subject=x", "ann@m\u00fcller.example",
        "\u043f\u043e\u0447\u0442\u0430@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444",
    ],
    "phone": [
        "+49 30 1234567", "030 / 12 34 56 78", "(030) 123-45-67-89", "0049 30 1234567", "+1 (555) 010-9999",
        "555-010-9999", "+4915112345678", "call 0151-12345678 now", "call us at 5551234567",
        "Tel. 1234567", "Telefon: 123 45 67", "phone number is 12345678",
    ],
}  # fmt: skip
HARMLESS = {
    "card": ["order 4111111111111112", "tracking 12345678901234567890", "2026-11-26 12:30", "58213",
             "4,111,111,111,111,111 people"],
    "iban": ["DE89370400440532013001", "order DE12345678", "ES24 hours", "AT20 degrees and 12345678901234567 more"],
    "email": ["@ann", "ann at example", "3 @ 5 euros", "a@b", "meet @ 5.30 pm",
              "lodash@4.17.21", "me at the dot com party"],
    "phone": [
        "2026-11-26", "26.11.2026", "26.11.2026 - 28.11.2026", "2026-11-26 12:30", "12:30 - 13:45", "192.168.100.200",
        "978-3-16-148410-0", "1.234.567,00", "1.234.567.890", "$ 1 234 567 890", "1 234 567 890 EUR", "order 58213",
        "123456789012", "version 1.2.3", "5/10/2026 to 6/10/2026",
        "ISBN 0-306-40615-2", "invoice no. 2024-000123", "3.141592653", "case 00123456", "Springfield 12345-6789",
        "SSN 123-45-6789", "item 000-111-2222", "reference number 123 456 789", "DOI 10.1000/182",
        "1 2 3 4 5 6 7 8 9 10", "12/2024-12/2025",
        "customer number 030-1234567", "Kundennummer: 030 1234567",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in SHOWN.items() for text in texts])
def test_what_is_shown_is_found(kind, text):
    assert FINDERS[kind](plain(f"Sure: {text}"))
    assert FINDERS[kind](plain(f"It is ({text}), right?"))


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in HARMLESS.items() for text in texts])
def test_what_only_looks_like_it_is_not(kind, text):
    assert not FINDERS[kind](plain(f"It is {text} then."))
