"""The real kaggle command line against a server of our own: whole, dropped, refused, damaged and hostile downloads."""

import contextlib
import email.utils
import io
import json
import logging
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from xrayhelpers import _kaggle, data
from xrayhelpers._machine import DataWarning, FetchError, StorageError
from xrayhelpers.data import DataRecord

KEY = "KGAT_" + "0123456789abcdef" * 2  # planted: no output, log or error may show it
OLD_KEY = "fedcba9876543210" * 2
ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not Path(sys.executable).with_name("kaggle").exists(), reason="kaggle is not installed beside this Python"
)


def make_zip(tree=("chest_xray/",), extra=(), size=3000, counts=None):
    """Return the bytes of an archive like Kaggle's, of incompressible files."""
    counts = counts or {"train": 6, "test": 4, "val": 2}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for top in tree:
            for split, n in counts.items():
                for i in range(n):
                    kind = ("NORMAL", "PNEUMONIA")[i % 2]
                    file.writestr(f"{top}{split}/{kind}/IM-{i:04d}-0001.jpeg", os.urandom(size))
        for name, content in extra:
            file.writestr(name, content)
    return buffer.getvalue()


class Kaggle(ThreadingHTTPServer):
    """The part of Kaggle's service that a download needs. `drops` holds the shares at which answers break off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.blob, self.refuse, self.says, self.drops, self.pause, self.gone_after = b"", None, "", [], 0.0, None
        self.ranges, self.seen, self.blobs = [], [], 0

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, content, status=200, headers=()):
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        server = self.server
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.seen.append((self.path, self.headers.get("Authorization") or ""))
        if "IntrospectToken" in self.path:
            self.answer(json.dumps({"active": True, "username": "pupil"}).encode())
        elif server.refuse:
            text = {"code": server.refuse}
            if server.says:
                text["message"] = f"{server.says}, token {KEY}"  # a service that says too much
            body = b"<html>Please log in</html>" if server.says == "a page" else json.dumps(text).encode()
            self.answer(body, server.refuse, [("Retry-After", "0")])
        elif "GetDatasetMetadata" in self.path:
            self.answer(json.dumps({"info": {"licenses": [{"name": "CC-BY-4.0"}]}}).encode())
        else:
            self.answer(b"", 302, [("Location", "http://localhost/blob?X-Goog-Signature=verysecret")])

    def do_GET(self):
        server = self.server
        server.blobs += 1
        if server.gone_after is not None and server.blobs > server.gone_after:
            return self.answer(b"{}", 404)
        start = 0
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(found.group(1))
            server.ranges.append(start)
        body = server.blob[start:]
        self.send_response(206 if found else 200)
        for name, value in {
            "Content-Type": "application/zip",
            "Content-Length": str(len(body)),
            "Accept-Ranges": "bytes",
            "ETag": '"one"',
            "Last-Modified": email.utils.formatdate(1_500_000_000, usegmt=True),
            **({"Content-Range": f"bytes {start}-{len(server.blob) - 1}/{len(server.blob)}"} if found else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        end = int(len(body) * server.drops.pop(0)) if server.drops else len(body)
        for at in range(0, end, 1 << 18):
            self.wfile.write(body[at : min(at + (1 << 18), end)])
            time.sleep(server.pause)
        self.close_connection = True


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    """A running server, and an environment in which the command line talks to it and to nothing else."""
    server = Kaggle()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path / "home"
    home.mkdir()
    for name in [n for n in os.environ if n.startswith("KAGGLE") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    be_small(monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


def be_small(monkeypatch, **changes):
    """Let the data set to be fetched be a small one."""
    record = DataRecord("small set", "", "1", "", "", {"train": 6, "test": 4, "val": 2})
    for room in (data, _kaggle):
        monkeypatch.setattr(room, "KAGGLE", record)
    for name, value in {"SLUG": "owner/small-set", "ZIP_BYTES": 100_000, "FOLDER_BYTES": 100_000, **changes}.items():
        monkeypatch.setattr(_kaggle, name, value)


@pytest.fixture
def deliver(monkeypatch, tmp_path):
    """Put an archive where the command line would, and go on from there; no server, no waiting."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    be_small(monkeypatch)

    def deliver(content):
        monkeypatch.setattr(_kaggle, "_download", lambda archive: archive.write_bytes(content))

    return deliver


def files_of(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def nothing_left(folder):
    """No folder that looks complete, and no half-unpacked one."""
    return not (folder / "chest_xray").exists() and not (folder / ".chest_xray-unpacking").exists()


def test_success_without_an_account(kaggle, tmp_path):
    kaggle.blob = make_zip()
    source = _kaggle.fetch_kaggle(tmp_path / "data")
    assert source.folder == tmp_path / "data" / "chest_xray"
    assert len(files_of(source.folder)) == 12
    assert str(source) == "kaggle data: 12 images (train 6, test 4, val 2); small set has 12"
    assert all(authorization == "" for _, authorization in kaggle.seen)
    assert not (tmp_path / "data" / ".download").exists()
    again = _kaggle.fetch_kaggle(tmp_path / "data")
    assert "already there" in again.note
    assert "elete" not in again.note
    assert kaggle.blobs == 1


def test_token_is_used_and_never_shown(kaggle, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    kaggle.blob, kaggle.says = make_zip(), "no"
    folder = Path(os.environ["HOME"]) / ".kaggle"
    folder.mkdir()
    for where in ("access_token", "kaggle.json", "KAGGLE_API_TOKEN"):
        for old in folder.iterdir():
            old.unlink()
        if where == "KAGGLE_API_TOKEN":
            monkeypatch.setenv(where, KEY)
        else:
            text = KEY if where == "access_token" else json.dumps({"username": "pupil", "key": OLD_KEY})
            (folder / where).write_text(text)
            (folder / where).chmod(0o600)
        kaggle.refuse, kaggle.seen = 403, []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(FetchError) as error:
                _kaggle.fetch_kaggle(tmp_path / "refused")
        assert any(authorization for _, authorization in kaggle.seen), where
        said = "".join(capfd.readouterr()) + caplog.text + str(error.value) + repr(error.value)
        assert KEY not in said
        assert OLD_KEY not in said
    kaggle.refuse = None
    source = _kaggle.fetch_kaggle(tmp_path / "granted")
    written = "".join(p.read_text(errors="ignore") for p in tmp_path.glob("*/*.log"))
    assert KEY not in "".join(capfd.readouterr()) + caplog.text + str(source) + written


def test_refused(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    for status, says, text in (
        (401, "", r"token \(401\).*docs/kaggle.md"),
        (403, "", r"refuses \(403\)"),
        (403, "Permission 'datasets.get' was denied", r"refuses \(403\)"),
        (404, "", r"no such data set \(404\)"),
        (404, "Dataset not found", r"no such data set \(404\)"),
        (429, "", r"\(429\). Wait a few minutes"),
    ):
        kaggle.refuse, kaggle.says = status, says
        with pytest.raises(FetchError, match=text) as error:
            _kaggle.fetch_kaggle(tmp_path / "data")
        assert KEY not in str(error.value)
        assert nothing_left(tmp_path / "data")


def test_a_page_that_is_not_kaggles(kaggle, tmp_path):
    kaggle.refuse, kaggle.says = 502, "a page"
    with pytest.raises(FetchError, match="proxy"):
        _kaggle.fetch_kaggle(tmp_path / "data")


def test_dropped_at_30_percent_is_resumed_by_the_client(kaggle, tmp_path):
    kaggle.blob, kaggle.drops = make_zip(size=400_000), [0.3]
    source = _kaggle.fetch_kaggle(tmp_path / "data")
    assert len(files_of(source.folder)) == 12
    assert kaggle.ranges == [pytest.approx(0.3 * len(kaggle.blob), abs=2 << 20)]
    assert kaggle.ranges[0] > 0


def test_killed_and_resumed_by_the_next_run(kaggle, tmp_path):
    kaggle.blob, kaggle.pause = make_zip(size=1_000_000), 0.1
    code = (
        "from xrayhelpers import _kaggle;"
        "_kaggle.SLUG, _kaggle.ZIP_BYTES = 'owner/small-set', 100_000;"
        f"_kaggle.fetch_kaggle({str(tmp_path / 'data')!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    archive = tmp_path / "data" / ".download" / "small-set.zip"
    deadline = time.monotonic() + 60
    while not archive.exists() or archive.stat().st_size < 2_500_000:
        assert time.monotonic() < deadline, "the download did not start"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert nothing_left(tmp_path / "data")
    kaggle.pause = 0
    source = _kaggle.fetch_kaggle(tmp_path / "data")
    assert len(files_of(source.folder)) == 12
    assert kaggle.ranges
    assert kaggle.ranges[0] >= 1 << 20


def test_wrong_length(kaggle, tmp_path):
    kaggle.blob, kaggle.drops, kaggle.gone_after = make_zip(size=300_000), [0.5], 1
    with pytest.raises(FetchError, match="wrong length"):
        _kaggle.fetch_kaggle(tmp_path / "data")
    assert nothing_left(tmp_path / "data")


def test_no_network(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://user:hunter2secret@127.0.0.1:9")
    with pytest.raises(FetchError, match="connection failed") as error:
        _kaggle.fetch_kaggle(tmp_path / "data")
    assert "hunter2secret" not in str(error.value)


def damaged(content):
    middle = content.find(b"IM-0002") + 500  # inside a member's data
    return content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 20]) + content[middle + 20 :]


def link_member(target="/etc/passwd"):
    info = zipfile.ZipInfo("chest_xray/train/NORMAL/IM-9999-0001.jpeg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


INSIDE = "chest_xray/train/NORMAL/"


def named(content, name):
    """Give the first image another name, of the same length, behind zipfile's back."""
    old = f"{INSIDE}IM-0000-0001.jpeg".encode()
    assert len(old) == len(name)
    return content.replace(old, name)


def packed(method):
    """An archive whose members are compressed in another way, and whose packed bytes are damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr(f"{INSIDE}IM-0000-0001.jpeg", b"x" * 5000)
    content = bytearray(buffer.getvalue())
    start = content.index(b".jpeg") + 5
    content[start + 12 : start + 20] = b"\xff" * 8
    return bytes(content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_bad_archive(deliver, tmp_path, monkeypatch):
    """None writes outside its folder or leaves half a one; each is put aside, so that the same command then works."""
    monkeypatch.setattr(_kaggle, "LARGEST", 5_000_000)
    first = f"{INSIDE}IM-0000-0001.jpeg"
    for content, text in (
        (damaged(make_zip()), "archive is damaged"),
        (b"no zip at all" * 100, "archive is damaged"),
        (make_zip()[:-200], "archive is damaged"),
        *((packed(method), "archive is damaged") for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)),
        (make_zip(extra=[(f"{INSIDE}\xe9.jpeg", b"x")]).replace(b"\xc3\xa9", b"\xff\xfe"), "damaged.*Unicode"),
        (make_zip(extra=[("../escaped.jpeg", b"x")]), "outside its folder.*not unpacked"),
        (make_zip(extra=[("/tmp/escaped.jpeg", b"x")]), "outside its folder"),
        (make_zip(extra=[(f"{INSIDE}..\\..\\escaped.jpeg", b"x")]), "outside its folder"),
        (make_zip(extra=[(f"{INSIDE}/IM-9999-0001.jpeg", b"x")]), "outside its folder, or fits no disk"),
        (make_zip(extra=[(f"{INSIDE}{'n' * 300}.jpeg", b"x")]), "outside its folder, or fits no disk"),
        (named(make_zip(), b"\0" * len(first)), "damaged"),
        (make_zip(extra=[link_member()]), "link or a locked file"),
        (make_zip(extra=[(first, b"x")]), "is there twice"),
        (make_zip(extra=[(first.upper(), b"x")]), "is there twice"),
        (make_zip(extra=[(f"{INSIDE}IM-9999-0001.jpeg", bytes(6_000_000))]), "larger than 0.005 GB"),
        (make_zip(tree=("a/b/c/x",)), "holds no {train,test,val}"),
    ):
        deliver(content)
        with pytest.raises(FetchError, match=f"{text}.*put aside as small-set.bad: run the same command again"):
            _kaggle.fetch_kaggle(tmp_path / "data")
        assert nothing_left(tmp_path / "data")
        assert files_of(tmp_path / "data" / ".download") == ["small-set.bad"]
    assert not list(tmp_path.rglob("*escaped*"))
    deliver(make_zip())
    (tmp_path / "data" / ".download" / "mine.txt").touch()
    assert len(files_of(_kaggle.fetch_kaggle(tmp_path / "data").folder)) == 12
    assert files_of(tmp_path / "data" / ".download") == ["mine.txt"], "what is not ours stays"


def test_doubled_tree_and_litter(deliver, tmp_path):
    litter = [
        ("__MACOSX/chest_xray/train/NORMAL/._IM-0000-0001.jpeg", b"x"),
        ("chest_xray/__MACOSX/train/NORMAL/IM-0000-0001.jpeg", b"x"),
        ("chest_xray/train/.DS_Store", b"x"),
        ("chest_xray/train/NORMAL/.DS_Store", b"x"),
        ("chest_xray/train/NORMAL/._IM-0000-0001.jpeg", b"x"),
        ("chest_xray/chest_xray/.DS_Store", b"x"),
    ]
    deliver(make_zip(tree=("chest_xray/", "chest_xray/chest_xray/"), extra=litter))
    folder = _kaggle.fetch_kaggle(tmp_path / "data").folder
    names = files_of(folder)
    assert len(names) == 12
    assert all(re.fullmatch(r"(train|test|val)/(NORMAL|PNEUMONIA)/IM-\d{4}-0001\.jpeg", name) for name in names)


def test_other_counts_are_said(deliver, tmp_path):
    deliver(make_zip(counts={"train": 5, "test": 6, "val": 2}))
    source = _kaggle.fetch_kaggle(tmp_path / "data")
    assert str(source).endswith("13 images (train 5, test 6, val 2); small set has 12")


def test_too_little_room_is_said_before_anything_is_asked(kaggle, tmp_path, monkeypatch):
    be_small(monkeypatch, ZIP_BYTES=10**15)
    with pytest.raises(StorageError, match=r"needs 1000000\.\d+ GB, .* are free. Make room"):
        _kaggle.fetch_kaggle(tmp_path / "data")
    assert kaggle.seen == []


@contextlib.contextmanager
def largest_file(size):
    """No process started here can write a file larger than `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# What version 2.2.4 and older ones said, recorded -> what it means.
RECORDED = {
    "OSError: [Errno 28] No space left on device: 'small-set.zip'": r"disk is full. Make room and run the same command",
    "PermissionError: [Errno 13] Permission denied: '/home/me/.config/kaggle'": "named at the end cannot be written",
    "OSError: [Errno 30] Read-only file system: '/data/small-set.zip'": "named at the end cannot be written",
    "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: /v1 (Caused by SSLError("
    "SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate "
    "in certificate chain')))": "a certificate of its own.*REQUESTS_CA_BUNDLE",
    "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: /v1 (Caused by ProxyError("
    "'Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Proxy Authentication Required')))": "wants a",
    "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: /v1 (Caused by ProxyError("
    "'Cannot connect to proxy.', OSError('Tunnel connection failed: 502 Bad Gateway')))": r"problem \(50x\)",
    "ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 403 Forbidden'))": "proxy of this",
    "OSError: Could not find kaggle.json. Make sure it's located in /home/me/.kaggle": r"no valid token \(401\)",
    "You must authenticate before you can call the Kaggle API.": r"no valid token \(401\)",
    "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes": r"no valid token \(401\)",
    "HTTPSConnectionPool(host='api.kaggle.com', port=443): Read timed out. (read timeout=500)": "connection failed",
    "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)": "log-in page answers",
    "certificate verify failed: certificate is not yet valid": "or the clock here is wrong",
    "ModuleNotFoundError: No module named 'kagglesdk'": "pip install --force-reinstall kaggle",
    "kaggle: error: unrecognized arguments: -q": "too old. Type: python -m pip install -U kaggle",
    "401 Client Error: Unauthorized for url: https://api.kaggle.com/v1/x": r"token \(401\)",
    "403 Client Error: Forbidden for url: https://api.kaggle.com/v1/x": r"refuses \(403\)",
    "503 Server Error: Service Unavailable for url: https://api.kaggle.com/v1/x": r"problem \(50x\). Wait",
    "Something new": "failed. Run the same command again. It said: Something new",
    "": "failed. Run the same command again. It said: exit status 1",
}


def test_each_cause_has_its_sentence(tmp_path, monkeypatch):
    """In recorded words: the command line itself would try five times, for a minute; some need another network."""
    program = tmp_path / "kaggle"
    program.write_text('#!/bin/sh\necho "$KAGGLE_SAYS"\nexit 1\n')
    program.chmod(0o755)
    be_small(monkeypatch)
    monkeypatch.setattr(_kaggle.shutil, "which", lambda *args, **kwargs: str(program))
    for said, means in RECORDED.items():
        monkeypatch.setenv("KAGGLE_SAYS", said)
        with pytest.raises(StorageError if "Errno 28" in said else FetchError, match=means):
            _kaggle.fetch_kaggle(tmp_path / "data")
        assert nothing_left(tmp_path / "data")


def test_disk_full_while_unpacking(deliver, tmp_path):
    content = make_zip(extra=[("chest_xray/train/NORMAL/IM-7777-0001.jpeg", bytes(3_000_000))])
    assert len(content) < 1_000_000
    deliver(content)
    with largest_file(1_000_000), pytest.raises(StorageError, match="cannot be written"):
        _kaggle.fetch_kaggle(tmp_path / "data")
    assert nothing_left(tmp_path / "data")


UNPACK = """
import os, signal, sys
from pathlib import Path
from xrayhelpers import _kaggle, data
content, real, left = Path(sys.argv[1]).read_bytes(), _kaggle.shutil.copyfileobj, iter(range(int(sys.argv[3])))
def copy(source, target):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
_kaggle.shutil.copyfileobj = copy
_kaggle._need = lambda *_: None
_kaggle._download = lambda archive: archive.write_bytes(content)
_kaggle.fetch_kaggle(sys.argv[2])
"""


def test_killed_while_unpacking_leaves_no_folder(deliver, tmp_path):
    content, place = make_zip(), tmp_path / "data"
    (tmp_path / "archive").write_bytes(content)
    for files in (0, 5, 11):
        command = [sys.executable, "-c", UNPACK, str(tmp_path / "archive"), str(place), str(files)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        assert not (place / "chest_xray").exists()
        assert len(files_of(place / ".chest_xray-unpacking")) == files + 1
    deliver(content)
    assert len(files_of(_kaggle.fetch_kaggle(place).folder)) == 12
    assert not (place / ".chest_xray-unpacking").exists()


def test_stalled(kaggle, tmp_path, monkeypatch):
    monkeypatch.setattr(_kaggle, "STALLED_AFTER", 3)
    kaggle.blob, kaggle.pause = make_zip(size=1_000_000), 30
    with pytest.raises(FetchError, match="Nothing came for 3 s"):
        _kaggle.fetch_kaggle(tmp_path / "data")


def test_no_command_line(kaggle, tmp_path, monkeypatch):
    monkeypatch.setattr(_kaggle.shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(FetchError, match="python -m pip install kaggle"):
        _kaggle.fetch_kaggle(tmp_path / "data")


def test_open_key_file_is_warned_of(deliver, tmp_path):
    file = Path(os.environ["HOME"]) / ".kaggle" / "kaggle.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"username": "pupil", "key": OLD_KEY}))
    file.chmod(0o644)
    deliver(make_zip())
    with pytest.warns(DataWarning, match=rf"Type: chmod 600 {re.escape(str(file))}"):
        _kaggle.fetch_kaggle(tmp_path / "data")


def test_mask(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "short-secret")
    text = f"{KEY} {OLD_KEY} short-secret http://u:pw@host/x https://host/blob?X-Sig=abc user pupil"
    assert _kaggle._mask(text) == "*** *** *** http://***@host/x https://host/blob?*** user pupil"
