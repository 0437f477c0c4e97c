"""The bucket's promises, held by S3 and by its in-memory stand-in alike; and what S3 says when it refuses."""

from __future__ import annotations

import io
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from pydantic import SecretStr

from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.ports import ObjectStore
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.settings import Settings
from tests.fakes.stores import InMemoryObjectStore

pytestmark = pytest.mark.integration

BUCKET = "object-store-tests"


@pytest.fixture
def s3(settings: Settings) -> Iterator[S3ObjectStore]:
    store = S3ObjectStore.from_settings(settings.model_copy(update={"s3_bucket": BUCKET}))
    store.create_bucket()
    yield store
    for found in list(store.list("")):
        store.delete(found.key)
    store.close()


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return InMemoryObjectStore()
    found: ObjectStore = request.getfixturevalue("s3")
    return found


def test_an_object_is_read_as_it_was_written_and_replaced_by_the_next(store: ObjectStore) -> None:
    first = store.put("a/b.bin", b"one")
    assert store.get("a/b.bin") == b"one"
    assert store.info("a/b.bin") == first
    second = store.put("a/b.bin", b"other")
    assert (second.key, second.size_bytes) == ("a/b.bin", 5)
    assert second.etag != first.etag
    assert '"' not in second.etag
    assert store.get("a/b.bin") == b"other"


def test_a_missing_key_is_a_missing_file(store: ObjectStore) -> None:
    assert store.info("nothing") is None
    with pytest.raises(FileNotFoundError, match="nothing"):
        store.get("nothing")
    with pytest.raises(FileNotFoundError, match="nothing"), store.reader("nothing"):
        pass
    store.delete("nothing")


def test_a_deleted_object_is_gone(store: ObjectStore) -> None:
    store.put("x", b"")
    assert store.get("x") == b""
    store.delete("x")
    assert store.info("x") is None


def test_objects_are_listed_by_prefix_in_key_order(store: ObjectStore) -> None:
    for key in ("p/b", "p/a", "p/a=1/é 2", "q/a", "p.x"):
        store.put(key, key.encode())
    assert [found.key for found in store.list("p/")] == ["p/a", "p/a=1/é 2", "p/b"]
    assert [found.size_bytes for found in store.list("p/")] == [3, 10, 3]
    assert list(store.list("none/")) == []


@pytest.mark.parametrize("size_bytes", [0, 5, (17 << 20) + 3])
def test_a_written_file_appears_on_a_clean_exit_only(store: ObjectStore, size_bytes: int) -> None:
    body = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    with store.writer("w") as file:
        file.write(body[: size_bytes // 2])
        assert store.info("w") is None
        file.write(body[size_bytes // 2 :])
    assert store.get("w") == body
    with pytest.raises(ZeroDivisionError), store.writer("w") as file:  # noqa: PT012
        file.write(b"half")
        raise ZeroDivisionError
    assert store.get("w") == body, "the earlier object stays whole"


def test_a_reader_seeks_and_reads_as_a_file_does(store: ObjectStore) -> None:
    body = bytes(range(256)) * 4096
    store.put("r", body)
    twin = io.BytesIO(body)
    with store.reader("r") as file:
        for offset, whence, length in [(0, 0, 10), (-8, 2, 100), (300_000, 0, 600_000), (-5, 1, 5), (1 << 20, 0, 1)]:
            assert file.seek(offset, whence) == twin.seek(offset, whence)
            assert file.read(length) == twin.read(length)
            assert file.tell() == twin.tell()
        assert file.seek(0) == 0
        assert file.read() == body


@dataclass
class Requests:
    """Counts what a boto3 client asks for."""

    asked: list[str] = field(default_factory=list)

    def watch(self, store: S3ObjectStore) -> None:
        store.client.meta.events.register("before-send.s3", self._note)

    def _note(self, request: Any, **_: Any) -> None:
        self.asked.append(f"{request.method} {request.headers.get('Range', b'').decode()}".strip())


def test_one_row_group_of_a_parquet_object_takes_few_requests(s3: S3ObjectStore) -> None:
    rows = 40_000
    table = pa.table({f"c{number}": [f"{number}-{row}" for row in range(rows)] for number in range(10)})
    with s3.writer("t.parquet") as file:
        pq.write_table(table, file, row_group_size=10_000)
    requests = Requests()
    requests.watch(s3)
    with s3.reader("t.parquet") as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
        group = parquet.read_row_group(2)
    assert group.equals(table.slice(20_000, 10_000))
    assert requests.asked[0] == "HEAD"
    assert len(requests.asked) <= 5, requests.asked


def test_a_reader_refuses_to_mix_two_versions_of_an_object(s3: S3ObjectStore) -> None:
    s3.put("v", b"a" * 1_000_000)
    with s3.reader("v") as file:
        assert file.read(1) == b"a"
        s3.put("v", b"b" * 1_000_000)
        file.seek(900_000)
        with pytest.raises(PartUnavailableError, match="changed"):
            file.read(10)


def test_a_large_object_is_written_and_read_in_constant_memory(s3: S3ObjectStore) -> None:
    block, blocks = b"0123456789abcdef" * (1 << 16), 100
    tracemalloc.start()
    try:
        with s3.writer("large") as file:
            for _ in range(blocks):
                file.write(block)
        with s3.reader("large") as file:
            read_bytes = 0
            while some := file.read(1 << 20):
                read_bytes += len(some)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read_bytes == blocks * len(block)
    assert peak_bytes < 48 << 20, "of 100 MB"


def test_many_threads_share_one_store(s3: S3ObjectStore) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with s3.writer(f"t/{number}") as file:
                file.write(str(number).encode() * 1000)
            assert s3.get(f"t/{number}") == str(number).encode() * 1000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


# --- refusals -----------------------------------------------------------------------------------------------


def every_operation(store: S3ObjectStore) -> list[Any]:
    def write() -> None:
        with store.writer("k") as file:
            file.write(b"x")

    def read() -> None:
        with store.reader("k") as file:
            file.read()

    return [
        lambda: store.put("k", b"x"),
        lambda: store.get("k"),
        lambda: store.info("k"),
        lambda: list(store.list("")),
        lambda: store.delete("k"),
        store.create_bucket,
        write,
        read,
    ]


@pytest.mark.parametrize(
    "wrong", [{"s3_secret_access_key": SecretStr("wr0ng-s3cret")}, {"s3_access_key_id": "UNKNOWNKEY"}]
)
def test_refused_credentials_name_the_variables_and_show_no_secret(settings: Settings, wrong: dict[str, Any]) -> None:
    store = S3ObjectStore.from_settings(settings.model_copy(update=wrong))
    for operation in every_operation(store):
        with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_ACCESS_KEY_ID") as caught:
            operation()
        store.close()  # the embedded server would read the refused PUT's body from the next request
        assert "EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY" in str(caught.value)
        assert "s3cret" not in f"{caught.value}{store!r}{store.client!r}"


def test_missing_credentials_name_the_variables_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "none-here")
    monkeypatch.setenv("AWS_CONFIG_FILE", "none-here")
    store = S3ObjectStore.from_settings(
        settings.model_copy(update={"s3_access_key_id": None, "s3_secret_access_key": None})
    )
    for operation in every_operation(store):
        with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_ACCESS_KEY_ID"):
            operation()
    store.close()


def test_a_bucket_that_does_not_exist_names_its_variable(settings: Settings) -> None:
    store = S3ObjectStore.from_settings(settings.model_copy(update={"s3_bucket": "no-such-bucket"}))
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_BUCKET"):
        store.put("k", b"x")
    store.close()  # as above
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_BUCKET"), store.writer("k") as file:
        file.write(b"x")
    store.close()
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_BUCKET"):
        store.get("k")
    store.close()


def test_a_store_that_does_not_answer_is_named_with_its_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="k",
        aws_secret_access_key="s",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=1),
    )
    store = S3ObjectStore(client, BUCKET)
    for operation in every_operation(store):
        with pytest.raises(PartUnavailableError, match=endpoint):
            operation()
    store.close()
