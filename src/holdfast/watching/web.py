"""The live view as a page that fills itself anew, served to this machine alone unless another address is asked for."""

from __future__ import annotations

import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6

from holdfast._errors import BadInput, HoldfastError
from holdfast.evaluation.report.page import page, policy
from holdfast.watching.view import View, view

SCRIPTS = ("report.js", "watch.js")
EVERY = 5
"""Seconds after which a page without JavaScript is loaded again."""


class Server(ThreadingHTTPServer):
    """Answers GET / with a run's page, and nothing else; raises BadInput where the address cannot be had."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int, host: str = "127.0.0.1"):
        self.folder = folder
        view(folder)  # a folder that is no run is refused before anybody asks
        self.address_family = AF_INET6 if ":" in host else AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise BadInput(f"Port {port} of {host} cannot be had: {error.strerror}. Try another --web PORT.") from error

    @property
    def url(self) -> str:
        """Where the page is to be found."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"


def local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def rendered(seen: View) -> str:
    """A view as a page; one that has ended asks no more."""
    again = "" if seen.state == "ended" else f'<noscript><meta http-equiv="refresh" content="{EVERY}"></noscript>\n'
    head = f'<meta name="state" content="{seen.state}">\n<link rel="icon" href="data:,">\n{again}'
    return page(seen.title, seen.sections, SCRIPTS, head)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "holdfast", ""

    def do_GET(self) -> None:
        """The page, and nothing else."""
        if not self._meant():
            self.send_error(HTTPStatus.FORBIDDEN, "Ask for this page by the address that it was announced at.")
        elif self.path != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._answer()

    def _meant(self) -> bool:
        """Whether a page of another site did not get here by a name that it had pointed at this machine."""
        name = re.sub(r":\d+$", "", self.headers.get("Host", "")).strip("[]")
        return local(name) or not local(str(self.server.server_address[0]))

    def _answer(self) -> None:
        try:
            body = rendered(view(self.server.folder)).encode()
        except (HoldfastError, OSError) as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=str(error))
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", f"{policy(SCRIPTS)}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name in the standard library
        """Say nothing in the terminal."""
