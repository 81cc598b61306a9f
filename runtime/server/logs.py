"""One line of JSON per request: ids, sizes, times and statuses, never words of a prompt or a reply."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import uuid
from typing import Any

access = logging.getLogger("holdfast.access")
errors = logging.getLogger("holdfast.errors")
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}\Z")


class JsonLines(logging.Formatter):
    """A record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, and the fields of the record or its message."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = {"time": f"{when}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "logger": record.name}
        told = getattr(record, "fields", None) or {"message": record.getMessage()}
        return json.dumps({**head, **told}, ensure_ascii=True, default=str)


def to_stderr(level: int = logging.INFO) -> None:
    """Write what the server and the runtime log as JSON lines to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, least in (("", max(level, logging.WARNING)), ("holdfast", level)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)


def request_id(given: str | None) -> str:
    """The caller's id where it is a plain one, or a new one."""
    return given if given is not None and _ID.match(given) else f"req-{uuid.uuid4().hex}"


def tell(**fields: Any) -> None:
    """Log one request."""
    access.info("request", extra={"fields": fields})


def tell_fault(error: BaseException, **fields: Any) -> None:
    """Log where an unexpected error came from. Its message is left out: it may quote what somebody wrote."""
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    errors.error("fault", extra={"fields": {**fields, "error": type(error).__name__, "at": where[-8:]}})
