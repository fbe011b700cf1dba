"""`datacomp bundle`, `verify`, `submit` and `withdraw`, and the board's `serve` and `token`: packs, checks and publishes
results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from datacomp_core.errors import SpecError, StoreError
from datacomp_core.redaction import redact
from datacomp_core.settings import settings
from datacomp_core.store import Folder, Store
from datacomp_core.store.folder import scratch
from deployments.cli import options, terminal

if TYPE_CHECKING:
    from datacomp_core.leaderboard.entries.rules import RuleCheck

TOKEN = "DATACOMP_TOKEN"
GIB = 1 << 30
SUBMIT_SECONDS = 3600  # a second evaluation may run before the verdict

Bundle = Annotated[Path, typer.Argument(help="The bundle's tar file.", exists=True, dir_okay=False)]
Pool = Annotated[str | None, typer.Option("--pool", help="Folder with the pool's metadata/; every uid is looked up there.")]
Downloaded = Annotated[
    str | None,
    typer.Option(
        "--downloaded",
        help="Folder with the index/ of the downloaded shards; the arrived samples are compared with the bundle's digest.",
    ),
]


def add_to(app: typer.Typer) -> None:
    for command in (bundle, verify, submit, withdraw):
        app.command(rich_help_panel="Submissions")(command)


def bundle(
    entry: Annotated[str, typer.Argument(help="A leaderboard entry: its address, or the first digits of its fingerprint.")],
    out: Annotated[Path, typer.Option("--out", help="The tar file to write.")],
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Pack the checkpoint too.")] = False,
    author: Annotated[str, typer.Option("--author", help="Author, shown on the method card.")] = "",
    card: Annotated[Path | None, typer.Option("--card", help="Text for the method card.", exists=True)] = None,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", help="OpenSSH private key (or its .pub, with an agent) that signs the bundle.", exists=True),
    ] = None,
    upload: Annotated[str | None, typer.Option("--upload", help="Hub repository owner/name to upload the files to.")] = None,
    json: options.Json = False,
) -> None:
    """Pack one result with its evidence: uids, results in the original's format, method card, records, and a sha256 of each.

    Example: datacomp bundle 31b52e310e4a --out mine.tar --checkpoint --author "A. Person"
    """
    from datacomp_core.leaderboard.submission.bundle import write_bundle

    text = card.read_text("utf-8") if card else ""
    store = Store.open(settings().store_url)
    sha256 = write_bundle(store, entry, out, checkpoint=checkpoint, author=author, text=text, sign=sign)
    told = {"bundle": str(out), "bytes": out.stat().st_size, "manifest_sha256": sha256}
    if upload is not None:
        from datacomp_core.leaderboard.submission.hub import upload as to_hub

        told["commit"] = to_hub(out, upload)
    if json:
        terminal.print_json(told)
    else:
        terminal.table("Bundle", ("what", "value"), [(name.replace("_", " "), str(value)) for name, value in told.items()])


def verify(bundle: Bundle, pool: Pool = None, downloaded: Downloaded = None, json: options.Json = False) -> None:
    """Check a bundle anywhere: hashes, records, fingerprints, scores, uids and rules. Exit status 1 if something is broken.

    Example: datacomp verify mine.tar
    """
    from datacomp_core.leaderboard.submission.isolated_check import verify_apart

    import_steps()
    with scratch() as folder:
        given = [None if url is None else Folder(url) for url in (pool, downloaded)]
        found = verify_apart(bundle, folder, pool=given[0], downloaded=given[1])
    if json:
        terminal.print_json({"ok": found.ok, "entry": found.address, "findings": [f.model_dump() for f in found.findings]})
    else:
        show_findings(found.findings)
        terminal.out.print("[green]The bundle is valid.[/]" if found.ok else "[red]The bundle failed verification.[/]")
    raise typer.Exit(0 if found.ok else 1)


def submit(
    bundle: Bundle,
    url: Annotated[str, typer.Argument(help="The board's address, such as http://127.0.0.1:4300")],
    json: options.Json = False,
) -> None:
    """Send a bundle to a board (`datacomp leaderboard serve`). The token is read from DATACOMP_TOKEN.

    Example: DATACOMP_TOKEN=dc_... datacomp submit mine.tar https://board.example
    """
    _require(url)
    status, told = _answer(f"{url.rstrip('/')}/submissions", bundle)
    if json or "findings" not in told:
        terminal.print_json({"http": status, **told})
    else:
        show_findings([_check(found) for found in told["findings"]])
        terminal.out.print(f"[bold]{told['status']}[/]: submission {told['id']}")
    raise typer.Exit(0 if status == 201 else 1)


def withdraw(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The submission's id, as printed by `datacomp submit`.")],
    url: Annotated[str, typer.Argument(help="The board's address.")],
    json: options.Json = False,
) -> None:
    """Remove your own row from a board. The board keeps the bundle. The token is read from DATACOMP_TOKEN.

    Example: DATACOMP_TOKEN=dc_... datacomp withdraw 31b52e310e4a0f11 https://board.example
    """
    import requests

    _require(url)
    try:
        answer = requests.delete(f"{url.rstrip('/')}/submissions/{quote(id_, safe='')}", auth=_with_token, timeout=60)
    except requests.RequestException as problem:
        raise StoreError(f"{redact(url)} cannot be reached: {redact(str(problem))}") from problem
    told = _json(answer)
    if json or answer.status_code != 200:
        terminal.print_json({"http": answer.status_code, **told})
    else:
        terminal.out.print(f"[bold]{told['status']}[/]: submission {told['id']}")
    raise typer.Exit(0 if answer.status_code == 200 else 1)


def _require(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise SpecError(f"{redact(url)!r} is not a web address: give one that begins with https:// or http://.")
    if "@" in urlsplit(url).netloc:
        raise SpecError(f"{redact(url)!r} contains a user or a password: remove them; a board accepts only {TOKEN}.")
    if not os.environ.get(TOKEN):
        raise SpecError(f"{TOKEN} is not set: ask who runs the board for a token.")


def _with_token(request: Any) -> Any:
    """Used as `auth` of requests, so that neither a .netrc nor anything else replaces the token."""
    request.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
    return request


def _json(answer: Any) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"detail": f"{answer.status_code} {answer.reason}"}


def _answer(url: str, bundle: Path) -> tuple[int, dict[str, Any]]:
    """Return the board's status and answer. urllib3 reads the rejection of a board that closes before it has read everything."""
    import requests

    try:
        with bundle.open("rb") as file:
            headers = {"Content-Type": "application/x-tar"}
            answer = requests.post(url, data=file, headers=headers, auth=_with_token, timeout=SUBMIT_SECONDS)
    except requests.RequestException as problem:
        raise StoreError(f"{redact(url)} cannot be reached: {redact(str(problem))}") from problem
    return answer.status_code, _json(answer)


def _check(found: Any) -> RuleCheck:
    from datacomp_core.leaderboard.entries.rules import RuleCheck

    return RuleCheck.model_validate(found)


def show_findings(findings: list[RuleCheck]) -> None:
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]?[/]"}
    terminal.table("Findings", ("", "rule", "finding"), [(marks[f.ok], f.rule, f.reason) for f in findings])


def import_steps() -> None:
    """Import every step, so that fingerprints and scores can be recomputed; heavy libraries stay unloaded."""
    import importlib
    import pkgutil

    import datacomp_core

    for module in pkgutil.walk_packages(datacomp_core.__path__, "datacomp_core."):
        importlib.import_module(module.name)


def serve(
    folder: Annotated[Path, typer.Option("--folder", help="Folder for submissions and the board.")],
    tokens: Annotated[Path, typer.Option("--tokens", help="File of tokens (`datacomp leaderboard token`).", exists=True)],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 4300,
    max_gib: Annotated[float, typer.Option("--max-gib", min=0.001, help="Largest accepted bundle, in GiB.")] = 4.0,
    pool: Pool = None,
    evalsets: Annotated[
        str | None, typer.Option("--evalsets", help="Folder of test sets; every checkpoint is evaluated again on them.")
    ] = None,
    memory_gib: Annotated[
        float, typer.Option("--memory-gib", min=0.5, help="Memory limit for checking one bundle, in GiB.")
    ] = 4.0,
) -> None:
    """Serve a board that accepts bundles over HTTP. It verifies each bundle, evaluates it again if asked, keeps it, and
    publishes it if it passes.

    Example: datacomp leaderboard serve --folder board --tokens tokens.json --evalsets evalsets
    """
    from datacomp_core.leaderboard.submission import access_tokens as token_file
    from datacomp_core.leaderboard.submission.inbox import SubmissionInbox
    from datacomp_core.leaderboard.submission.isolated_check import CheckLimits
    from deployments.local_server import require_free
    from deployments.submission_server import evaluate_again, make_app
    from deployments.submission_server import serve as listen

    token_file.read(tokens)
    require_free(port)
    import_steps()
    again = evaluate_again(evalsets, device=settings().device, workers=settings().num_workers) if evalsets else None
    inbox = SubmissionInbox(
        folder,
        max_bytes=int(max_gib * GIB),
        pool=None if pool is None else Folder(pool),
        reevaluate=again,
        limits=CheckLimits(memory_bytes=int(memory_gib * GIB)),
    )
    terminal.out.print(f"Board: [bold]http://{host}:{port}[/]   (Ctrl-C ends it)")
    listen(make_app(inbox, tokens), host, port)


def token(
    name: Annotated[str, typer.Argument(help="Name of the submitter.")],
    tokens: Annotated[Path, typer.Option("--tokens", help="File of tokens; created if it does not exist.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (.pub) that must sign this submitter's bundles.", exists=True)
    ] = None,
) -> None:
    """Create a submission token; it is shown once. It replaces an earlier token of the same name.

    Example: datacomp leaderboard token alice --tokens tokens.json
    """
    from datacomp_core.leaderboard.submission import access_tokens as token_file

    terminal.out.print(token_file.add(tokens, name, key=key.read_text("utf-8") if key else None), markup=False)
