"""`vlp serve INDEX`: an index as a page and as an interface for programs."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from eval.service.settings import Settings
from vlp.config.bounds import check
from vlp.errors import UserError

KEY = "VLP_API_KEY"  # environment variable: a flag would be seen in the list of processes
MOST_KEY = 500  # characters


def listening(settings: Settings) -> socket.socket:
    """A socket that listens where the service will. Raises UserError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise UserError(f"there is no address {settings.host} on this machine; give another --host") from None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise UserError(
            f"port {settings.port} of {settings.host} cannot be used ({error.strerror}); choose another by --port"
        ) from None
    return made


def key_of(settings: Settings) -> str:
    """The key that requests have to bring. Raises UserError where one is needed and there is none."""
    key = os.environ.get(KEY, "")
    if len(key) > MOST_KEY or not key.isascii() or (key and not key.isprintable()) or key != key.strip():
        raise UserError(f"{KEY} should be at most {MOST_KEY} printable ASCII characters without spaces around them")
    if not (key or settings.is_local or settings.no_key):
        raise UserError(
            f"--host {settings.host} lets other machines ask: set a key in the environment variable {KEY}, "
            "or allow them all by --no-key"
        )
    return key


def serve(index: Path, settings: Settings, *, model: str = "", device: str = "cpu", trust: bool = False) -> None:
    """Answer until SIGINT or SIGTERM, then end what has begun. Raises UserError before anything is served."""
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn

        from eval.service.app import create_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("eval", "vlp", "data_pipelines"):
            raise
        raise UserError(
            f"vlp serve needs {error.name}, which is not installed; install it by pip install 'vlp[serve]'"
        ) from None
    import torch

    from eval.service.current import Current

    check(settings)
    key = key_of(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with listening(settings) as made:
        current = Current(index, model=model, device=device, trust=trust)
        config = uvicorn.Config(
            create_app(current, settings, key),
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # whoever asks could name any address in them
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.patience)),
        )
        host, port = made.getsockname()[:2]
        gallery = current.version.gallery
        holds = f"{len(gallery.vectors):,} {gallery.of}"
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}   {holds}; Ctrl-C stops", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them once more when it has stopped
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[made])


def main(argv: list[str]) -> int:
    """`vlp serve INDEX`: 0 when it was stopped. Raises UserError."""

    def command(
        index: Annotated[Positional[Path], arg(metavar="INDEX")],
        settings: OmitArgPrefixes[Settings] = Settings(),  # noqa: B008
        *,
        model: str = "",
        device: str = "cpu",
        trust: bool = False,
    ) -> int:
        """Serve an index: a page to search it, /search and /knn-service for programs, /health, /metrics, /openapi.json.

        It listens to this machine alone unless --host says otherwise. A new version of the index is taken up by itself.

        Args:
            index: folder that `vlp index build` wrote.
            settings: what is allowed, and where.
            model: where the index's model is now, if it was moved.
            device: cpu, cuda, cuda:1 ...
            trust: run code that the index's or the model's folder names and that is no part of vlp.
        """
        logging.basicConfig(format="%(message)s")
        logging.getLogger("vlp").setLevel(logging.INFO)
        serve(index, settings, model=model, device=device, trust=trust)
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp serve"))
