"""API keys: given with the command, or in a file that is read again whenever it changes."""

from __future__ import annotations

import codecs
import hmac
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError

log = logging.getLogger(__name__)
_COMMENT = re.compile(rb"(?:^|\s)#.*")


class Keys:
    """The valid keys. With none at all (and no file) everybody may ask."""

    def __init__(self, keys: Sequence[str] = (), *, file: Path | None = None) -> None:
        """``file``: one key a line; a ``#`` in front or behind a space begins a comment. Raises UsageError when it
        cannot be read."""
        self._given = [key.strip().encode("utf-8", "surrogateescape") for key in keys if key.strip()]
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._read: list[bytes] = []
        if file is not None:
            try:
                self._refresh(file)
            except OSError as error:
                raise UsageError(
                    f"the key file {file} cannot be read ({error.strerror})", next="check the path"
                ) from None
            if not self._read and not self._given:
                log.warning("the key file %s holds no key: every request will be refused", file)

    @property
    def required(self) -> bool:
        """Whether a request needs a key. With a file always, also while it is empty."""
        return bool(self._given) or self._file is not None

    def allow(self, authorization: str) -> bool:
        """Whether the value of an Authorization header holds a valid key. Every key is compared, in constant time."""
        if not self.required:
            return True
        scheme, *rest = authorization.split(None, 1) or [""]
        given = "".join(rest).strip().encode("latin-1", "replace")
        matches = [hmac.compare_digest(given, valid) for valid in self._valid()]
        return scheme.lower() == "bearer" and any(matches)

    def _valid(self) -> list[bytes]:
        if self._file is not None:
            try:
                self._refresh(self._file)
            except OSError as error:  # in the middle of a replacement: what was valid stays so
                log.warning(
                    "the key file %s cannot be read (%s); the keys read last stay valid", self._file, error.strerror
                )
        return [*self._given, *self._read]

    def _refresh(self, file: Path) -> None:
        found = os.stat(file)
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._seen:
            text = file.read_bytes().removeprefix(codecs.BOM_UTF8)
            lines = (_COMMENT.sub(b"", line).strip() for line in text.splitlines())
            self._read, self._seen = [line for line in lines if line], stamp
