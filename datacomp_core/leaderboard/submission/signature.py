"""Signatures of bundles by OpenSSH keys (`ssh-keygen -Y`): what is signed is the manifest, which has the sha256 of everything."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from datacomp_core.errors import SpecError
from datacomp_core.store.folder import scratch

NAMESPACE = "datacomp-bundle"
SECONDS = 60
PUBLIC_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-[\w@.-]+) [A-Za-z0-9+/=]{40,2000}")


def sign(manifest: bytes, key: Path) -> bytes:
    """The signature of a manifest by a private key (which may be in an agent). SpecError if it cannot be made."""
    with scratch() as folder:
        (folder / "manifest").write_bytes(manifest)
        _keygen("sign", "-f", str(key), "-n", NAMESPACE, str(folder / "manifest"))
        return (folder / "manifest.sig").read_bytes()


def is_by(manifest: Path, given: bytes, keys: Sequence[str]) -> bool:
    """Whether a signature of a manifest is by one of some public keys."""
    with scratch() as folder:
        (folder / "allowed").write_text("".join(f'sender namespaces="{NAMESPACE}" {key}\n' for key in keys), "ascii")
        (folder / "signature").write_bytes(given)
        command = ["ssh-keygen", "-Y", "verify", "-f", str(folder / "allowed"), "-I", "sender", "-n", NAMESPACE]
        try:
            with manifest.open("rb") as file:
                done = subprocess.run(
                    [*command, "-s", str(folder / "signature")], stdin=file, capture_output=True, timeout=SECONDS, check=False
                )
        except (FileNotFoundError, subprocess.TimeoutExpired) as problem:
            raise SpecError("Cannot check signatures without ssh-keygen: install openssh-client.") from problem
        return done.returncode == 0


def public_key(text: str) -> str:
    """The key in a line of a `.pub` file, without its comment. SpecError if the line contains no key."""
    found = PUBLIC_KEY.match(text.strip())
    if found is None:
        raise SpecError("This is not a public key of OpenSSH: give the file KEY.pub beside your private key.")
    return found.group()


def _keygen(*arguments: str) -> None:
    try:
        done = subprocess.run(["ssh-keygen", "-Y", *arguments], capture_output=True, timeout=SECONDS, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as problem:
        raise SpecError("Cannot sign bundles without ssh-keygen: install openssh-client.") from problem
    if done.returncode != 0:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise SpecError(f"ssh-keygen cannot sign with this key: {told[-1]}")
