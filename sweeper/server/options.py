"""What `sweeper serve` serves, and for whom: the options, and which of them are refused."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from sweeper.core.errors import UsageError

WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 -- names of addresses, nothing is bound


@dataclass(frozen=True)
class ServeOptions:
    """The parts to serve, and the hosts to admit besides loopback; `dashboard_port` None means no dashboard."""

    host: str = "127.0.0.1"
    port: int = 5000
    dashboard_port: int | None = 8080
    database_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    auth: bool = False
    upgrade: bool = False

    def check(self) -> None:
        """Refuse options that are insecure or cannot work.

        Raises:
            UsageError: one line.
        """
        for name in self.allowed_hosts:
            if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?", name):
                raise UsageError(
                    f"--allowed-hosts {name!r}: wildcards are not allowed. Name each host as in a "
                    "browser's address bar."
                )
        if not is_loopback(self.host) and not (self.auth and self.allowed_hosts):
            raise UsageError(
                f"--host {self.host} exposes the server to other machines. Add --auth, and --allowed-hosts with the "
                "host names that clients use."
            )
        if self.dashboard_port == self.port:
            raise UsageError(f"--dashboard-port {self.port}: the same as --port. Choose another one.")

    @property
    def reachable_host(self) -> str:
        """Return the host in the URLs that this machine uses."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def hosts(self) -> str:
        """Return the Host headers that MLflow admits: loopback and the given names, with and without the port."""
        own = () if self.host in WILDCARDS else (self.reachable_host,)
        names = dict.fromkeys(("127.0.0.1", "localhost", "[::1]", *own, *self.allowed_hosts))
        ported = [n for n in names if re.search(r":\d+$", n) and not n.endswith("]")]
        return ",".join([*ported, *(h for n in names if n not in ported for h in (n, f"{n}:{self.port}"))])

    @property
    def origins(self) -> str:
        """Return the sites whose pages may call MLflow: its own, under each of its names, also behind TLS."""
        return ",".join(f"{scheme}://{host}" for host in self.hosts.split(",") for scheme in ("http", "https"))


def is_loopback(host: str) -> bool:
    """Return True if `host` is reachable from this machine only."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
