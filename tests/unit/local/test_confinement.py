"""A confined process, asked by itself what it can still do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from email_platform.local.clickhouse_endpoint.confinement import confine

TRY = """
import json, os, signal, socket, sys, threading
from pathlib import Path
from email_platform.local.clickhouse_endpoint.confinement import confine
own, other, allowed, refused = sys.argv[1:]
held = []

def tried(what):
    try:
        what()
    except OSError as error:
        held.append(type(error).__name__)
    else:
        held.append("done")

def connect(port):
    socket.create_connection(("127.0.0.1", int(port)), timeout=10).close()

print(confine(writable=[Path(own)], s3_endpoints=[f"http://127.0.0.1:{allowed}/bucket"]), file=sys.stderr)
for what in (
    lambda: Path(own, "new").write_text("x"),
    lambda: Path(own, "new").rename(Path(own, "newer")),
    lambda: Path(other, "secret").read_text(),
    lambda: Path(other, "new").write_text("x"),
    lambda: Path(other, "secret").unlink(),
    lambda: os.listdir(other),
    lambda: os.symlink(Path(other, "secret"), Path(own, "link")) or Path(own, "link").read_text(),
    lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    lambda: Path("/proc/self/environ").read_bytes(),
    lambda: connect(allowed),
    lambda: connect(refused),
    lambda: os.kill(os.getppid(), 0),
    lambda: __import__("wave"),
):
    tried(what)
thread = threading.Thread(target=lambda: tried(Path(other, "secret").read_text))
thread.start()
thread.join()
print(json.dumps(held))
"""


def test_a_confined_process_keeps_its_folder_and_port_and_nothing_else(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    (other / "secret").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as allowed, socket.create_server(("127.0.0.1", 0)) as refused:
        ports = [str(each.getsockname()[1]) for each in (allowed, refused)]
        done = subprocess.run(
            [sys.executable, "-c", TRY, str(own), str(other), *ports], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "the kernel confines it to its folder and its object store's port" in done.stderr
    no = "PermissionError"
    assert json.loads(done.stdout) == ["done", "done", no, no, no, no, no, no, no, "done", no, no, "done", no]
    assert [path.name for path in other.iterdir()] == ["secret"]


def test_a_process_that_has_threads_already_is_not_called_confined(tmp_path: Path) -> None:
    # This one has some: pytest's plugins and pyarrow start them.
    code = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "from pathlib import Path\nfrom email_platform.local.clickhouse_endpoint.confinement import confine\n"
        f"confine(writable=[Path({str(tmp_path)!r})], s3_endpoints=[])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "before anything that starts threads" in done.stderr


def test_without_landlock_it_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "has no Landlock" in confine(writable=[tmp_path], s3_endpoints=[])
