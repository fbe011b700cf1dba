"""A network namespace for the engine. Docker closes the packet filter of the network that it runs in, for every other bridge and
namespace there too, and a second engine would share the first one's bridge. slirp4netns connects the namespace with the internet,
without a rule in this machine's filter.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

DNS = "10.0.2.3"
"""Where slirp4netns answers for the resolver of this machine, which may be on a loopback address."""
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def network_of(pid: int) -> Generator[None]:
    """This thread, and the processes and threads that it starts in the block, are in the network of another process."""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _enter(theirs)
        yield
    finally:
        _enter(ours)
        os.close(theirs)
        os.close(ours)


@contextmanager
def own_network() -> Generator[None]:
    """The same in a network that ends with the block: loopback of its own, and the internet."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    reader, writer = os.pipe()
    words = [
        "slirp4netns",
        "--configure",
        "--mtu=65520",
        "--disable-host-loopback",
        f"--ready-fd={writer}",
        str(holder.pid),
        "tap0",
    ]
    try:
        assert holder.stdout is not None
        holder.stdout.readline()  # its namespace is there
        bridge = subprocess.Popen(words, pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(writer)
        try:
            assert os.read(reader, 1), "slirp4netns did not start"
            with network_of(holder.pid):
                yield
        finally:
            bridge.terminate()
            bridge.wait(timeout=60)
    finally:
        os.close(reader)
        holder.kill()
        holder.communicate()


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
