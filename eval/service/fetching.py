"""Pictures from addresses that a question names: public ones alone, and never more than is allowed."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from ipaddress import ip_address
from urllib.parse import urlsplit

from vlp.errors import UserError

CHUNK = 1 << 16
PORTS = {"http": 80, "https": 443}


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a name, all of them public. Raises UserError if one is not, or if there is none.

    One that is not refuses the name: it may stand for this machine or its network.
    """
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError("the address of the picture has no host that is known; give another one") from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    for address in addresses:
        if not is_public(address):
            raise UserError("the address of the picture is a private one, and those are never fetched")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet and not to this machine, its network or a tunnel into them."""
    ip = ip_address(address.partition("%")[0])
    inner = [] if ip.version == 4 else [i for i in (ip.ipv4_mapped, ip.sixtofour, (ip.teredo or (None, None))[1]) if i]
    return all(one.is_global and not one.is_multicast for one in (ip, *inner))


class _Pinned(http.client.HTTPConnection):
    """A connection to the address that was checked: a name that is asked twice may have two answers."""

    def __init__(self, host: str, port: int, *, address: str, secure: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self.address, self.secure = address, secure

    def connect(self) -> None:
        self.sock = socket.create_connection((self.address, self.port), self.timeout)
        if self.secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def fetched(url: str, most: int, patience: float) -> bytes:
    """The bytes at an http or https address, at most `most`, within `patience` seconds. Redirects are not followed.

    Raises UserError for any other address, for a private one, and where it does not answer with a picture's bytes.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
        host = parts.hostname or ""
    except ValueError:
        port, host = 0, ""
    if not host or parts.scheme not in PORTS or parts.username is not None:
        raise UserError("the address of the picture should be http://HOST/... or https://HOST/...")
    address, end = public_addresses(host, port)[0], time.monotonic() + patience
    connection = _Pinned(host, port, address=address, secure=parts.scheme == "https", timeout=patience)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise UserError(f"the address of the picture answers {answer.status}; give one that answers 200")
        data = b""
        while chunk := answer.read1(CHUNK):
            data += chunk
            if len(data) > most:
                raise UserError(f"the picture at that address has more than {most:,} bytes")
            if time.monotonic() > end:
                raise UserError("the picture at that address takes too long to arrive")
        return data
    except (OSError, ValueError, http.client.HTTPException):
        raise UserError("the address of the picture does not answer as a web server does") from None
    finally:
        connection.close()
