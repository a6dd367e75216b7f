"""A large download: cut, altered, refused or interrupted, it goes on or says what to do."""

import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from drawn_photographs import numbered, small_disk, zipped

from course_utils import fetching
from course_utils.fetching import PhotographError, fetch
from course_utils.photographs import prepare


class Server(BaseHTTPRequestHandler):
    """Serves one file; the server's `faults` say what goes wrong, each as long as it stands there."""

    def do_HEAD(self):
        if "404" in self.server.faults:
            self.send_error(404)
            return
        self.send_response(200)
        if "no size" not in self.server.faults:
            self.send_header(
                "Content-Length", str(len(self.server.body) + 100 * ("more" in self.server.faults))
            )
        self.send_header("ETag", self.server.etag)
        self.end_headers()

    def do_GET(self):
        body, faults = self.server.body, self.server.faults
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.server.starts.append(start)
        if "refuses" in faults:
            return self.send_error(503)
        if start and "no range" not in faults:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if "cut once" in faults:
            faults.remove("cut once")
            body = body[: len(body) // 2]
        if "cuts" in faults:
            body = body[: len(body) // 3]
        if "altered" in faults:
            body = body.replace(b"IDAT", b"IDAX")
        if "garbled" in faults:
            body = body[:100] + bytes(200_000) + body[200_100:]
        self.wfile.write(body)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine, with .url of a zip of 20 photographs."""
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.01)
    files = {f"val/{i}.png": numbered(i) for i in range(20)} | {"val/noise.bin": os.urandom(300_000)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads, server.faults, server.starts, server.etag = True, [], [], '"1"'
    server.body = zipped(tmp_path / "served.zip", files).read_bytes()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/zips/val.zip"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_zip_is_downloaded_once_and_prepared(server, tmp_path):
    path = fetch(server.url, tmp_path / "down", yes=True)
    assert path.name == "val.zip" and path.read_bytes() == server.body
    assert fetch(server.url, tmp_path / "down") == path and server.starts == [0]
    assert {file.name for file in path.parent.iterdir()} <= {"val.zip", "val.zip.lock"}
    assert prepare(path, tmp_path / "out").kept == 20


def test_a_cut_download_goes_on_by_itself(server, tmp_path):
    server.faults.append("cut once")
    path = fetch(server.url, tmp_path, yes=True)
    assert path.read_bytes() == server.body and server.starts == [0, len(server.body) // 2]


def test_a_server_that_cuts_every_time_is_outlasted(server, tmp_path):
    server.faults += ["cuts"]
    with pytest.raises(PhotographError, match=r"stopped after .* Run the same again and it goes on"):
        fetch(server.url, tmp_path, yes=True)  # ever smaller thirds, until one is empty
    server.faults.clear()
    n = len(server.starts)
    assert fetch(server.url, tmp_path, yes=True).read_bytes() == server.body
    assert server.starts[n] > len(server.body) * 0.9


def test_no_range_means_from_the_beginning(server, tmp_path):
    server.faults += ["cut once", "no range"]
    assert fetch(server.url, tmp_path, yes=True).read_bytes() == server.body
    assert server.starts == [0, len(server.body) // 2]


def test_a_changed_file_is_not_glued_to_the_old_one(server, tmp_path):
    server.faults.append("cuts")
    with pytest.raises(PhotographError, match="goes on from there"):
        fetch(server.url, tmp_path, yes=True)
    server.faults.clear()
    server.starts.clear()
    server.etag, server.body = '"2"', server.body[::-1][:22] + server.body[22:]
    with pytest.raises(PhotographError, match="altered"):  # it is no zip, but it is all of one piece
        fetch(server.url, tmp_path, yes=True)
    assert server.starts == [0]


@pytest.mark.parametrize(
    "fault, message",
    [
        ("404", "cannot be had: HTTP Error 404.*Check the address"),
        ("no size", "does not say how big it is"),
        ("more", "announced .* bytes, then"),
        ("refuses", "stopped after 0 kB of .*503"),
        ("garbled", "arrived altered and was deleted"),
        ("altered", "arrived altered and was deleted"),
    ],
)
def test_a_faulty_server_leaves_no_zip_and_a_message(fault, message, server, tmp_path):
    server.faults.append(fault)
    with pytest.raises(PhotographError, match=message):
        fetch(server.url, tmp_path / "down", yes=True)
    assert not (tmp_path / "down" / "val.zip").exists()
    server.faults.clear()
    assert fetch(server.url, tmp_path / "down", yes=True).read_bytes() == server.body


def test_the_checksum_counts_where_it_is_known(server, tmp_path):
    right = hashlib.md5(server.body).hexdigest()
    with pytest.raises(PhotographError, match="altered"):
        fetch(server.url, tmp_path, md5="0" * 32, yes=True)
    assert fetch(server.url, tmp_path, md5=right, yes=True).read_bytes() == server.body


def test_the_size_is_shown_and_asked(server, tmp_path, monkeypatch, capsys):
    for answer in ("n", ""):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        with pytest.raises(PhotographError, match=r"Nothing was downloaded.*--yes"):
            fetch(server.url, tmp_path)
    assert re.search("has 30[56] kB, of which 30[56] kB are to be downloaded", capsys.readouterr().out)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert server.starts == [] and fetch(server.url, tmp_path).is_file()


def test_nobody_to_ask_is_a_no(server, tmp_path, monkeypatch):
    def closed(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    with pytest.raises(PhotographError, match="--yes"):
        fetch(server.url, tmp_path)


def test_a_full_disk_stops_the_download_and_it_goes_on(server, tmp_path):
    with (
        small_disk(200_000),
        pytest.raises(PhotographError, match=r"could not be written.*\nFree some space"),
    ):
        fetch(server.url, tmp_path / "down", yes=True)
    assert len(server.starts) == 1  # it does not try again
    assert fetch(server.url, tmp_path / "down", yes=True).read_bytes() == server.body
    assert server.starts[1] > 100_000


def test_the_disk_is_asked_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "SPARE_BYTES", 10**15)
    with pytest.raises(PhotographError, match="not enough space"):
        fetch(server.url, tmp_path, yes=True)
    assert not server.starts


def test_an_interrupted_download_says_so_in_one_line(server, tmp_path, monkeypatch, capsys):
    def interrupted(answer):
        yield answer.read(1000)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path, yes=True)
    said = capsys.readouterr().out
    assert re.fullmatch(r"Interrupted after 1 kB of 30\d kB; run the same again to go on.\n", said)
    monkeypatch.undo()
    assert fetch(server.url, tmp_path, yes=True).read_bytes() == server.body
    assert server.starts == [0, 1000]


def test_addresses_that_cannot_work(tmp_path):
    for url in ("file:///etc/passwd", "val.zip", "http://127.0.0.1:9/val.zip"):
        with pytest.raises(PhotographError, match="Check the address and the network"):
            fetch(url, tmp_path, yes=True)
