"""`datacomp bundle`, `verify` and `submit`, and the board's own `serve` and `token`: results that travel."""

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
    from datacomp_core.leaderboard.rules import Check

TOKEN = "DATACOMP_TOKEN"
GIB = 1 << 30
SUBMIT_SECONDS = 3600  # a second evaluation may stand between the bundle and its verdict

Bundle = Annotated[Path, typer.Argument(help="The bundle's tar file.", exists=True, dir_okay=False)]
Pool = Annotated[str | None, typer.Option("--pool", help="Folder with the pool's metadata/: every uid is looked up in it.")]
Downloaded = Annotated[
    str | None,
    typer.Option(
        "--downloaded",
        help="Folder with the index/ of the downloaded shards: what arrived is compared with the bundle's digest.",
    ),
]


def add_to(app: typer.Typer) -> None:
    for command in (bundle, verify, submit, withdraw):
        app.command(rich_help_panel="Submissions")(command)


def bundle(
    entry: Annotated[str, typer.Argument(help="A leaderboard entry: its address, or the first digits of its fingerprint.")],
    out: Annotated[Path, typer.Option("--out", help="The tar file to write.")],
    checkpoint: Annotated[bool, typer.Option("--checkpoint", help="Pack the checkpoint too.")] = False,
    author: Annotated[str, typer.Option("--author", help="Stands on the method card.")] = "",
    card: Annotated[Path | None, typer.Option("--card", help="Text for the method card.", exists=True)] = None,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", help="Private key of OpenSSH (or its .pub, with an agent) that signs it.", exists=True),
    ] = None,
    upload: Annotated[str | None, typer.Option("--upload", help="Hub repository owner/name to put the files in.")] = None,
    json: options.Json = False,
) -> None:
    """Pack one result with its proof: uids, results in the original's form, method card, records, and a sha256 of each.

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
    from datacomp_core.leaderboard.submission.apart import verify_apart

    import_steps()
    with scratch() as folder:
        given = [None if url is None else Folder(url) for url in (pool, downloaded)]
        found = verify_apart(bundle, folder, pool=given[0], downloaded=given[1])
    if json:
        terminal.print_json({"ok": found.ok, "entry": found.address, "findings": [f.model_dump() for f in found.findings]})
    else:
        show_findings(found.findings)
        terminal.out.print("[green]It holds.[/]" if found.ok else "[red]It does not hold.[/]")
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
    id_: Annotated[str, typer.Argument(metavar="ID", help="The submission, as `datacomp submit` told it.")],
    url: Annotated[str, typer.Argument(help="The board's address.")],
    json: options.Json = False,
) -> None:
    """Take a row of your own off a board. The board keeps the bundle. The token is read from DATACOMP_TOKEN.

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
        raise SpecError(f"{redact(url)!r} is not an address of the web.")
    if "@" in urlsplit(url).netloc:
        raise SpecError(f"{redact(url)!r} has a user or a password in it: leave them out, a board takes {TOKEN} alone.")
    if not os.environ.get(TOKEN):
        raise SpecError(f"{TOKEN} is not set: ask who runs the board for a token.")


def _with_token(request: Any) -> Any:
    """As `auth` of requests, so that neither a .netrc nor anything else takes the token's place."""
    request.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
    return request


def _json(answer: Any) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"detail": f"{answer.status_code} {answer.reason}"}


def _answer(url: str, bundle: Path) -> tuple[int, dict[str, Any]]:
    """The board's status and answer; urllib3 reads the refusal of a board that closes before it has read all."""
    import requests

    try:
        with bundle.open("rb") as file:
            headers = {"Content-Type": "application/x-tar"}
            answer = requests.post(url, data=file, headers=headers, auth=_with_token, timeout=SUBMIT_SECONDS)
    except requests.RequestException as problem:
        raise StoreError(f"{redact(url)} cannot be reached: {redact(str(problem))}") from problem
    return answer.status_code, _json(answer)


def _check(found: Any) -> Check:
    from datacomp_core.leaderboard.rules import Check

    return Check.model_validate(found)


def show_findings(findings: list[Check]) -> None:
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]?[/]"}
    terminal.table("Findings", ("", "rule", "what was found"), [(marks[f.ok], f.rule, f.reason) for f in findings])


def import_steps() -> None:
    """Every step of the code, so that fingerprints and scores can be computed again; what is heavy in them stays unloaded."""
    import importlib
    import pkgutil

    import datacomp_core

    for module in pkgutil.walk_packages(datacomp_core.__path__, "datacomp_core."):
        importlib.import_module(module.name)


def serve(
    folder: Annotated[Path, typer.Option("--folder", help="Where submissions and the board lie.")],
    tokens: Annotated[Path, typer.Option("--tokens", help="File of tokens (`datacomp leaderboard token`).", exists=True)],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 4300,
    max_gib: Annotated[float, typer.Option("--max-gib", min=0.001, help="Largest bundle taken, in GiB.")] = 4.0,
    pool: Pool = None,
    evalsets: Annotated[
        str | None, typer.Option("--evalsets", help="Folder of test sets: every checkpoint is evaluated again on them.")
    ] = None,
    memory_gib: Annotated[
        float, typer.Option("--memory-gib", min=0.5, help="Most memory that checking one bundle may take, in GiB.")
    ] = 4.0,
) -> None:
    """Serve a board that takes bundles over HTTP: verified, if wanted evaluated again, kept, and published if they hold.

    Example: datacomp leaderboard serve --folder board --tokens tokens.json --evalsets evalsets
    """
    from datacomp_core.leaderboard.submission import tokens as token_file
    from datacomp_core.leaderboard.submission.apart import Limits
    from datacomp_core.leaderboard.submission.desk import Desk
    from deployments.local_server import require_free
    from deployments.submission_server import evaluate_again, make_app
    from deployments.submission_server import serve as listen

    token_file.read(tokens)
    require_free(port)
    import_steps()
    again = evaluate_again(evalsets, device=settings().device, workers=settings().num_workers) if evalsets else None
    desk = Desk(
        folder,
        max_bytes=int(max_gib * GIB),
        pool=None if pool is None else Folder(pool),
        reevaluate=again,
        limits=Limits(memory_bytes=int(memory_gib * GIB)),
    )
    terminal.out.print(f"Board: [bold]http://{host}:{port}[/]   (Ctrl-C ends it)")
    listen(make_app(desk, tokens), host, port)


def token(
    name: Annotated[str, typer.Argument(help="Who may submit with it.")],
    tokens: Annotated[Path, typer.Option("--tokens", help="File of tokens; made if there is none.")],
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (.pub) that must sign what this name sends.", exists=True)
    ] = None,
) -> None:
    """Make a token for someone who may submit; it is shown once. An earlier one of the same name ends.

    Example: datacomp leaderboard token alice --tokens tokens.json
    """
    from datacomp_core.leaderboard.submission import tokens as token_file

    terminal.out.print(token_file.add(tokens, name, key=key.read_text("utf-8") if key else None), markup=False)
