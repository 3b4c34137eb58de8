"""The page of a run on its way: what is answered, to whom, and what is not."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast._errors import BadInput
from holdfast.watching import Server, local
from tests.evaluation.report.runs import SHAPES, write_run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = write_run(tmp_path / "governed", SHAPES["governed"])
    (folder / "certificate.json").unlink()
    with Server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def _asked(server: Server, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_the_page_shows_the_run_and_refreshes_itself(server: Server) -> None:
    status, headers, page = _asked(server)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["Cache-Control"] == "no-store"
    for said in ("Guarded texts", "<progress", 'class="bar inside"', 'content="running"', "fetch(", "noscript"):
        assert said in page
    assert "Python" not in headers["Server"]


def test_at_its_end_a_page_asks_no_more(server: Server) -> None:
    (server.folder / "certificate.json").write_text('{"verdict": "holds"}')
    page = _asked(server)[2]
    assert 'content="ended"' in page and "noscript" not in page and "holds its certificate" in page


@pytest.mark.parametrize("path", ["/log.jsonl", "/../log.jsonl", "/?", "/%2e%2e/", "/favicon.ico"])
def test_there_is_nothing_else_to_be_had(path: str, server: Server) -> None:
    assert _asked(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_can_be_sent(method: str, server: Server) -> None:
    assert _asked(server, method=method)[0] == 501


@pytest.mark.parametrize(("host", "status"), [("localhost:1", 200), ("[::1]:1", 200), ("evil.example:80", 403)])
def test_a_name_that_was_pointed_here_from_outside_is_refused(host: str, status: int, server: Server) -> None:
    assert _asked(server, Host=host)[0] == status


def test_a_folder_that_became_something_else_is_said(server: Server) -> None:
    for file in server.folder.iterdir():
        file.unlink()
    (server.folder / "other").write_text("")
    assert _asked(server)[0] == 503


def test_a_port_that_is_taken_and_a_folder_that_is_no_run_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be had"):
        Server(server.folder, server.server_port)
    with pytest.raises(BadInput, match="is no run"):
        Server(tmp_path, 0)


def test_only_this_machine_reaches_it(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")
    assert [local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.0.0.1", "box")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert socket.getdefaulttimeout() is None
