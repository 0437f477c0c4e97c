"""Requests that the embedded S3 must refuse, sent to the real process as they are, signed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from email_platform.local.s3.server import ACCESS_KEY_VARIABLE, SECRET_KEY_VARIABLE
from email_platform.local.stack.part import free_port

pytestmark = pytest.mark.integration

CREDENTIALS = Credentials("an-access-key", "a-secret-key-of-this-test")


@dataclass
class Store:
    """A running S3 part."""

    port: int
    folder: Path
    log: Path

    def ask(
        self, method: str, path: str, body: bytes = b"", signed: bytes | None = None, digest: str | None = None
    ) -> tuple[int, bytes]:
        """Send a request whose signature covers `signed` (or the `digest`), but which carries `body`."""
        request = AWSRequest(method, f"http://127.0.0.1:{self.port}{path}")
        sent = digest or hashlib.sha256(body if signed is None else signed).hexdigest()
        request.headers["X-Amz-Content-SHA256"] = sent
        signer = S3SigV4Auth(CREDENTIALS, "s3", "us-east-1")
        signer.payload = lambda _: sent
        signer.add_auth(request)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(request.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def objects(self) -> set[str]:
        """All files below the data folder that are no state of the server's own."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return {name for name in found if ".nanio" not in name}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("s3")
    log = folder / "log"
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "email_platform.local.s3.server"),
                *("--data-folder", str(folder / "data"), "--port", str(port)),
            ],
            env={
                **os.environ,
                ACCESS_KEY_VARIABLE: CREDENTIALS.access_key,
                SECRET_KEY_VARIABLE: CREDENTIALS.secret_key,
            },
            stdout=output,
            stderr=output,
        )
    try:
        started = Store(port, folder / "data", log)
        deadline = time.monotonic() + 60
        while True:
            try:
                assert started.ask("PUT", "/bucket")[0] == 200
                break
            except ConnectionRefusedError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield started
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(autouse=True)
def no_traceback(store: Store) -> Iterator[None]:
    yield
    assert "Traceback" not in store.log.read_text()


def code_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    found = re.search(rb"<Code>(\w+)</Code>", answer[1])
    assert found, answer
    return answer[0], found[1].decode()


BAD_KEYS = [
    "..",
    "../outside",
    "../../outside",
    "a/../../outside",
    "a/..",
    "./a",
    "a/./b",
    "%2e%2e/outside",
    "..%2foutside",
    "a%00b",
    "a%7Fb",
    "x" * 2000,
    "x/" * 700,
    "x" * 300,
    "%D7%A9" * 400,
    ".nanio-meta/a.json",
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: key[:20])
@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_a_key_that_no_file_can_have_is_refused_with_s3s_error(store: Store, key: str, method: str) -> None:
    answer = store.ask(method, f"/bucket/{key}", b"body" if method == "PUT" else b"")
    assert 400 <= answer[0] < 500
    if method == "PUT":
        refusals = ("KeyTooLongError", "InvalidURI", "InvalidObjectName", "InvalidArgument")
        # A dot or slash may not be escaped in what is signed.
        assert code_of(answer)[1] in (*refusals, "SignatureDoesNotMatch" if "%2" in key else "")
    assert not list(store.folder.parent.rglob("outside*"))
    assert store.ask("GET", "/bucket")[0] == 200


def test_a_key_of_1024_bytes_is_kept(store: Store) -> None:
    key = "/".join(["k" * 127] * 8)
    assert len(key) == 1023
    assert store.ask("PUT", f"/bucket/{key}x", b"body")[0] == 200
    assert store.ask("GET", f"/bucket/{key}x") == (200, b"body")


@pytest.mark.parametrize("upload", ["unknown", "..", "a%2Fb", "..%2F..%2Fx", "", "x" * 5000, "%00", "a%20b"])
def test_an_unknown_upload_is_refused_with_s3s_error(store: Store, upload: str) -> None:
    complete = (
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>"
    )
    for method, query, body in (
        ("PUT", f"partNumber=1&uploadId={upload}", b"part"),
        ("POST", f"uploadId={upload}", complete),
        ("GET", f"uploadId={upload}", b""),
        ("DELETE", f"uploadId={upload}", b""),
    ):
        status, code = code_of(store.ask(method, f"/bucket/of-no-upload?{query}", body))
        assert (status, code) in ((404, "NoSuchUpload"), (501, "NotImplemented"))
    assert "bucket/of-no-upload" not in store.objects()


def test_a_body_that_is_not_the_signed_one_is_not_stored(store: Store) -> None:
    assert store.ask("PUT", "/bucket/kept", b"the first")[0] == 200
    for body in (b"the other", b"", b"the first and more", b"x" * 3_000_000):
        for key in ("kept", "new"):
            refused = store.ask("PUT", f"/bucket/{key}", body, signed=b"the first")
            if body != b"the first":
                assert code_of(refused) == (400, "XAmzContentSHA256Mismatch")
    assert store.ask("GET", "/bucket/kept") == (200, b"the first")
    assert code_of(store.ask("GET", "/bucket/new")) == (404, "NoSuchKey")
    assert not [name for name in store.objects() if ".tmp" in name]


def test_a_part_that_is_not_the_signed_one_is_not_taken(store: Store) -> None:
    begun = store.ask("POST", "/bucket/in-parts?uploads=")
    found = re.search(rb"<UploadId>([^<]+)</UploadId>", begun[1])
    assert found
    upload = found[1].decode()
    answer = store.ask("PUT", f"/bucket/in-parts?partNumber=1&uploadId={upload}", b"altered", signed=b"a part")
    assert code_of(answer) == (400, "XAmzContentSHA256Mismatch")
    assert store.ask("PUT", f"/bucket/in-parts?partNumber=1&uploadId={upload}", b"a part")[0] == 200
    of_another = store.ask("PUT", f"/bucket/other?partNumber=1&uploadId={upload}", b"a part")
    assert code_of(of_another) == (404, "NoSuchUpload")


def test_a_list_of_deletions_that_is_not_the_signed_one_deletes_nothing(store: Store) -> None:
    assert store.ask("PUT", "/bucket/stays", b"body")[0] == 200
    listed = b"<Delete><Object><Key>stays</Key></Object></Delete>"
    assert code_of(store.ask("POST", "/bucket?delete=", listed, signed=b"<Delete></Delete>"))[0] == 400
    assert store.ask("GET", "/bucket/stays") == (200, b"body")


@pytest.mark.parametrize("digest", ["", "abc", "0" * 63, "UNSIGNED", "G" * 64])
def test_a_hash_that_is_none_is_refused(store: Store, digest: str) -> None:
    answer = store.ask("PUT", "/bucket/hashless", b"body", digest=digest or "-")
    assert code_of(answer) == (400, "InvalidArgument")
    assert "bucket/hashless" not in store.objects()


def test_an_object_below_another_and_the_reverse_are_refused(store: Store) -> None:
    assert store.ask("PUT", "/bucket/branch", b"body")[0] == 200
    assert 400 <= code_of(store.ask("PUT", "/bucket/branch/leaf", b"body"))[0] < 500
    assert store.ask("PUT", "/bucket/tree/leaf", b"body")[0] == 200
    assert 400 <= code_of(store.ask("PUT", "/bucket/tree", b"body"))[0] < 500
    assert store.ask("GET", "/bucket/branch") == (200, b"body")
    assert store.ask("GET", "/bucket/tree/leaf") == (200, b"body")
