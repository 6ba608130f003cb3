"""Listening addresses: loopback means both of its addresses, and a port that is taken is said so by name."""

from __future__ import annotations

import errno
import ipaddress
import socket

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_BACKLOG = 2048


class CannotListen(Exception):
    """An address cannot be listened on; the text says which and why."""

    def __init__(self, message: str, *, taken: bool) -> None:
        super().__init__(message)
        self.taken = taken


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening_hosts(host: str) -> tuple[str, ...]:
    """The addresses for a host: for the loopback names both families, because `localhost` may mean either."""
    if host in ("localhost", "127.0.0.1"):
        return ("127.0.0.1", "::1") if _has_loopback_v6() else ("127.0.0.1",)
    return (host,)


def _has_loopback_v6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def address_text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bound_sockets(hosts: tuple[str, ...], port: int) -> list[socket.socket]:
    """A listening socket for each address, all on one port (a free one for 0); raises CannotListen."""
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            sockets.append(_bound(host, port))
            port = sockets[0].getsockname()[1]
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise CannotListen(f"{host} is no address of this machine: {error.strerror}", taken=False) from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        why = "is in use by another program" if taken else f"cannot be listened on: {error.strerror}"
        raise CannotListen(f"{address_text(host, port)} {why}", taken=taken) from None
    return listening
