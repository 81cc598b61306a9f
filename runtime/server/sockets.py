"""The socket that a server listens on."""

from __future__ import annotations

import os
import socket

from ..errors import HoldfastError, UsageError

BACKLOG = 2048
"""Connections that may wait to be taken."""
_FD = "have the parent process listen, and give the number under which the socket is inherited"


def reserved(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet, so that nobody waits on it while the model is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise _taken(f"{host}:{port}", error) from None
    return made


def inherited(fd: int) -> socket.socket:
    """A socket that somebody else holds open."""
    try:
        found = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"file descriptor {fd} is no socket ({error.strerror})", next=_FD) from None
    if found.type != socket.SOCK_STREAM:
        found.detach()
        raise UsageError(f"file descriptor {fd} is no stream socket", next=_FD)
    return found


def listen(on: socket.socket) -> None:
    """Take connections, whose small pieces are sent when they are written (asyncio sees to that only where the socket
    names its protocol): the body behind its head would wait 40 ms for the other side's acknowledgement."""
    if on.family in (socket.AF_INET, socket.AF_INET6):
        on.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        on.listen(BACKLOG)
    except OSError as error:  # another one that had the address too was sooner
        raise _taken(url_of(on).partition("//")[2], error) from None


def url_of(listening: socket.socket) -> str:
    """Its base URL; a socket in the file system is written as nginx's ``proxy_pass`` takes it."""
    bound = listening.getsockname()
    if not isinstance(bound, tuple):
        return f"http://unix:{os.fsdecode(bound)}:"
    return f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"


def _taken(address: str, error: Exception) -> HoldfastError:
    what = f"{address} cannot be listened on ({getattr(error, 'strerror', None) or error})"
    return HoldfastError(what, next="choose another --host or --port")
