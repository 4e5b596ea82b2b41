"""`scaling dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.cli.output import JsonFlag, note


def register(app: typer.Typer) -> None:
    """Add the command of this file to `app`."""
    app.command("dashboard")(dashboard)


def dashboard(
    sweep: Annotated[
        str,
        typer.Argument(help="A study, a sweep JSON file, the name of a launched sweep, or a folder of runs."),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine's let others read the page.")
    ] = "127.0.0.1",
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the sweeps' folders.")] = Path("runs"),
    json_output: JsonFlag = False,
) -> None:
    """Serve a page that shows a sweep while it runs: loss curves, isoFLOP profiles, the law so far, the runs.

    It reads the run folders and changes nothing, so it can be started and stopped at any time, before the
    sweep is launched too. Open the address that it prints; Ctrl-C ends it. From another machine, forward the
    port: ssh -L 8008:localhost:8008 HOST, with --port 8008.

    Example: scaling dashboard quickstart
    """
    import contextlib
    import json

    from launch.dashboard import LOCAL, Dashboard
    from launch.status import Reader

    page = Dashboard(Reader(sweep, runs), host, port)
    name = page.watched.reader.name
    if host not in LOCAL:
        note(f"listening on {host}: whoever reaches this machine can read the page")
    if json_output:
        print(json.dumps({"sweep": name, "url": page.url}), flush=True)
    else:
        print(f"{name}: {page.url} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        page.serve()
