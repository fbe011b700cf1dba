"""Every row of the table of special addresses, forms of IPv6 that hide IPv4 ones, and a name server that changes its mind."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from datacomp_core.pool.blocked_addresses import AddressRange, is_blocked, is_blocked_host, table
from datacomp_core.pool.safe_http import BlockedAddressError, RequestLimits, SafeOpener

PUBLIC = ipaddress.ip_address("93.184.216.34")


def inside(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[str]:
    """First, last and middle address of a network."""
    first, last = int(network[0]), int(network[-1])
    return [str(type(network[0])(value)) for value in (first, last, (first + last) // 2)]


@pytest.mark.parametrize("row", [row for row in table() if row.judged == "refused"], ids=lambda row: str(row.network))
def test_every_special_network_is_refused(row: AddressRange) -> None:
    for address in inside(row.network):
        assert is_blocked(address), (address, row)
        if isinstance(row.network, ipaddress.IPv4Network):
            number = int(ipaddress.IPv4Address(address))
            high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
            for form in (f"::ffff:{address}", f"64:ff9b::{high}:{low}", f"2002:{high}:{low}::1"):
                assert is_blocked(form), (form, row)


@pytest.mark.parametrize("row", [row for row in table() if row.judged == "inside"], ids=lambda row: str(row.network))
def test_a_form_of_an_address_is_judged_by_what_is_inside(row: AddressRange) -> None:
    shift = 80 if row.network == ipaddress.ip_network("2002::/16") else 0  # Python 3.13 writes the mapped ones in another way
    for text, blocked in ((str(PUBLIC), False), ("127.0.0.1", True), ("192.0.0.9", True), ("169.254.169.254", True)):
        form = ipaddress.IPv6Address(int(row.network[0]) | int(ipaddress.IPv4Address(text)) << shift)
        assert is_blocked(str(form)) == blocked, (form, text)


@pytest.mark.parametrize(
    "address",
    [
        *("::7f00:1", "::5db8:d822", "::ffff:0:127.0.0.1", "::ffff:0:93.184.216.34", "64:ff9b:1::7f00:1", "64:ff9b:1:1::8.8.8.8"),
        *("fec0::1", "feff::1", "2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "192.0.0.9", "192.0.0.200", "5f00::1"),
        *("2001:0:5db8:d822::1", "4000::1", "1::1", "e000::1", "3fff:fff::1", "100:0:0:1::5", "fe80::1%eth0"),
    ],
)
def test_forms_that_hide_an_address_or_belong_to_nobody(address: str) -> None:
    assert is_blocked(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "192.0.1.1", "198.17.0.1", "2606:4700::1111", "2a00:1450::5efe", "3ffe:ffff::1"])
def test_neighbours_of_the_table_are_open(address: str) -> None:
    assert not is_blocked(address)


SPELLINGS = (
    *("127.0.0.1", "127.0.0.1.", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "0X7F000001", "2130706433", "017700000001", "127.1"),
    *("127.0.1", "0", "00.00.00.00", "127.000.000.001", "127.0.0.1..", "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "0x7f.1", "0x"),
    *(
        "4294967297",
        "1.2.3.4.5",
        "256.1.1.1",
        "08.1.1.1",
        "169.254.169.254.",
        "0xA9FEA9FE",
        "[::1]",
        "[::ffff:7f00:1]",
        "::127.0.0.1",
    ),
    *("[fe80::1%25eth0]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[::ffff:0:127.0.0.1]", "[2001:0:7f00:1::]", ""),
    *("localhost", "LOCALHOST.", "me.localhost", "metadata", "metadata.google.internal", "printer.local", "x.home.arpa"),
)


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_a_special_host_is_named_to_a_proxy(host: str) -> None:
    assert is_blocked_host(host)


@pytest.mark.parametrize(
    "host", ["93.184.216.34", "0x5db8d822", "example.com", "EXAMPLE.com.", "1und1.de", "x.0xf.org", "a.b-2", "[2606:4700::1111]"]
)
def test_hosts_of_the_public_net_are(host: str) -> None:
    assert not is_blocked_host(host)


def test_an_open_network_opens_its_names_and_no_other_network() -> None:
    opened = [ipaddress.ip_network("10.0.0.0/8")]
    assert not is_blocked_host("pictures.internal", opened)
    assert not is_blocked_host("0xa000001", opened)
    assert is_blocked_host("0x7f000001", opened)


class _Proxy(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_error(502)

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


def test_a_proxy_is_asked_for_no_special_host() -> None:
    asked: list[str] = []
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (_Proxy,), {"asked": asked}))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    proxied = f"http://127.0.0.1:{proxy.server_address[1]}"
    try:
        opener = SafeOpener(RequestLimits(1 << 20, 20), {"http": proxied, "https": proxied})
        for host in SPELLINGS:
            place = f"[{host}]" if ":" in host and "[" not in host else host
            for scheme in ("http", "https"):
                with pytest.raises(OSError, match=r"blocked address|no host given"):
                    opener.open(f"{scheme}://{place}/x", timeout=10)
        assert asked == []
        with opener.open("http://example.com/x", timeout=10) as answer:
            assert answer.read() == b"here"
        assert asked == ["http://example.com/x"]
    finally:
        proxy.shutdown()
        proxy.server_close()


# A name server that changes its mind ----------------------------------------------------------------------------------


class _Rebinding(socketserver.BaseRequestHandler):
    """Answers A questions with the next address of a list, to live for no time at all."""

    addresses: list[str]

    def handle(self) -> None:
        question, reply = self.request
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
        answer = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(address)
        reply.sendto(head + question[12:] + answer, self.client_address)


@contextmanager
def name_server(*addresses: str) -> Generator[int]:
    handler = type("Handler", (_Rebinding,), {"addresses": list(addresses)})
    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ask(port: int, name: str) -> str:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(20)
        asking.sendto(struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1), ("127.0.0.1", port))
        return socket.inet_ntoa(asking.recv(512)[-4:])


class _Page(BaseHTTPRequestHandler):
    reached: list[str]

    def do_GET(self) -> None:
        self.reached.append(str(self.connection.getsockname()[0]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


def test_a_name_that_changes_its_address_leads_nowhere_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real name server and a real web server: what was checked is what is connected to, and a second answer is checked anew.

    127.0.0.1 stands for the public net, 127.0.0.2 for the network that nobody may reach.
    """
    reached: list[str] = []
    web = ThreadingHTTPServer(("0.0.0.0", 0), type("Page", (_Page,), {"reached": reached}))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    plain = socket.getaddrinfo
    try:
        with name_server("127.0.0.1", "127.0.0.2") as port:

            def resolve(host: str, *given: Any, **options: Any) -> Any:
                return plain(ask(port, host) if host == "rebinding.test" else host, *given, **options)

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            opener = SafeOpener(RequestLimits(1 << 20, 20, ("127.0.0.1/32",)), {})
            url = f"http://rebinding.test:{web.server_address[1]}/x"
            with opener.open(url, timeout=10) as answer:
                assert answer.read() == b"here"
            for _ in range(3):
                with pytest.raises(BlockedAddressError, match=r"127\.0\.0\.2"):
                    opener.open(url, timeout=10)
    finally:
        web.shutdown()
        web.server_close()
    assert reached == ["127.0.0.1"]


def test_the_table_has_each_network_once() -> None:
    networks = [str(row.network) for row in table()]
    assert len(networks) == len(set(networks)) > 50
    assert {row.judged for row in table()} == {"refused", "inside"}


def test_the_table_has_as_many_networks_as_the_registries() -> None:
    """26 and 25 of the registries' files of 2025-10-09; multicast, deprecated forms and a cloud's service are ours."""
    ours = {"224.0.0.0/4", "168.63.129.16/32", "::/96", "::ffff:0:0:0/96", "fec0::/10", "ff00::/8"}
    registered = [row.network.version for row in table() if row.network not in map(ipaddress.ip_network, ours)]
    assert (registered.count(4), registered.count(6)) == (26, 25)


def test_nothing_that_this_python_calls_special_is_let_through() -> None:
    """Python's own tables are made from IANA's too: ours may refuse more, never less."""
    judged_inside = [row.network for row in table() if row.judged == "inside"]
    constants = (ipaddress._IPv4Constants, ipaddress._IPv6Constants)  # type: ignore[attr-defined]
    known = [network for kind in constants for network in (*kind._private_networks, kind._multicast_network)]
    known += ipaddress._IPv6Constants._reserved_networks  # type: ignore[attr-defined]
    looked_at = [network for network in known if network not in judged_inside]
    assert len(looked_at) > 30
    for network in looked_at:
        for address in inside(network):
            assert is_blocked(address), (address, network)
