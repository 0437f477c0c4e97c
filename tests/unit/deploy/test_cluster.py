"""Is deploy/cluster a cluster as the platform's settings and DDL need it? It runs where there is Docker."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from dotenv import dotenv_values
from jsonschema.validators import validator_for

from email_platform.adapters.clickhouse.migrate import ddl, read_migrations
from email_platform.adapters.clickhouse.production_form import production_form
from email_platform.settings import Settings, external_parts, variable_of

DEPLOY = Path(__file__).parents[3] / "deploy"
CLUSTER = DEPLOY / "cluster"


def services() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "compose.yaml").read_text(encoding="utf-8"))["services"]


def servers() -> dict[str, Any]:
    return {name: service for name, service in services().items() if "clickhouse-server" in service["image"]}


def settings(tmp_path: Path) -> Settings:
    variables = {name: value for name, value in dotenv_values(CLUSTER / "tests.env").items() if value}
    assert external_parts(variables) == {"postgres", "s3", "clickhouse"}
    secrets = {variable_of(name): "x" * 32 for name in ("unsubscribe_secret", "erasure_key")}  # the stack has its own
    return Settings.load(variables | secrets, state_folder=tmp_path)


def published(service: str, port: int) -> set[str]:
    return {host for host in services()[service]["ports"] if host.endswith(f":{port}")}


def test_the_compose_files_fit_the_schema_of_compose_files() -> None:
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text("utf-8"))
    validator = validator_for(schema)(schema)
    for file in (CLUSTER / "compose.yaml", DEPLOY / "compose.yaml"):
        validator.validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert not validator.is_valid({"services": {"server": {"imagine": "x"}}})


def test_every_image_is_pinned_and_every_file_that_is_mounted_is_there() -> None:
    for name, service in services().items():
        image, _, tag = service["image"].partition(":")
        assert re.search(r"\d", tag), (name, image)
        for volume in service.get("volumes", []):
            assert (CLUSTER / volume.split(":")[0]).is_file(), volume


def test_two_shards_of_two_replicas_are_known_under_the_names_of_their_servers() -> None:
    configuration = ElementTree.parse(CLUSTER / "cluster.xml").getroot()
    shards = configuration.findall("remote_servers/main/shard")
    hosts = [[replica.findtext("host") for replica in shard.findall("replica")] for shard in shards]
    assert [len(shard) for shard in hosts] == [2, 2]
    macros = {
        name: (service["environment"]["SHARD"], service["environment"]["REPLICA"])
        for name, service in servers().items()
    }
    assert {host: (str(number), replica) for number, shard in enumerate(hosts, 1) for host, replica in zip(shard, "ab", strict=True)} == macros  # fmt: skip  # noqa: E501
    assert all(service["hostname"] == name for name, service in servers().items())
    assert {shard.findtext("internal_replication") for shard in shards} == {"true"}
    keeper = ElementTree.parse(CLUSTER / "keeper.xml").getroot()
    assert configuration.findtext("zookeeper/node/host") in services()
    assert configuration.findtext("zookeeper/node/port") == keeper.findtext("keeper_server/tcp_port")
    assert configuration.find("distributed_ddl/path") is not None


def test_the_ddl_of_the_settings_names_this_cluster_and_its_macros(tmp_path: Path) -> None:
    configuration = ElementTree.parse(CLUSTER / "cluster.xml").getroot()
    names = {element.tag for element in configuration.findall("remote_servers/*")}
    macros = {element.tag: element.get("from_env") for element in configuration.findall("macros/*")}
    form = production_form(settings(tmp_path))
    assert form is not None
    assert form.sharded
    statements = "\n".join(ddl(read_migrations(), form))
    assert set(re.findall(r"on cluster (\w+)", statements)) == names
    # {database} and {table} are ClickHouse's own.
    assert set(re.findall(r"\{(\w+)\}", statements)) - {"database", "table"} == set(macros)
    for service in servers().values():
        assert set(macros.values()) <= set(service["environment"])


def test_the_tests_reach_the_published_ports_with_the_passwords_of_the_services(tmp_path: Path) -> None:
    found = settings(tmp_path)
    (name,) = (name for name in servers() if "ports" in servers()[name])
    server = servers()[name]["environment"]
    clickhouse = f"http://{server['CLICKHOUSE_USER']}:{server['CLICKHOUSE_PASSWORD']}@127.0.0.1:18124/"
    assert found.clickhouse_url.get_secret_value().startswith(clickhouse)
    assert published(name, 8123) == {"127.0.0.1:18124:8123"}
    minio = services()["minio"]["environment"]
    secret = found.s3_secret_access_key
    assert secret is not None
    assert (found.s3_access_key_id, secret.get_secret_value()) == tuple(minio.values())
    assert found.s3_endpoint_url == "http://127.0.0.1:19001"
    assert published("minio", 9000) == {"127.0.0.1:19001:9000"}
    assert found.s3_endpoint_url_for_clickhouse == "http://minio:9000"
    postgres = services()["postgres"]["environment"]
    account = f"{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}@127.0.0.1:15433"
    for url, database in ((found.postgres_url, postgres["POSTGRES_DB"]), (found.dagster_postgres_url, "dagster")):
        assert url is not None
        assert url.get_secret_value().endswith(f"//{account}/{database}")
    assert "create database dagster" in (CLUSTER / "databases.sql").read_text(encoding="utf-8")


def test_the_script_is_one_that_a_shell_reads_and_that_removes_what_it_starts() -> None:
    script = CLUSTER / "run_tests.sh"
    assert script.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert text.index("trap 'compose down --volumes' EXIT") < text.index("compose up")
    make = (DEPLOY.parent / "Makefile").read_text(encoding="utf-8")
    assert "\ncluster: " in make
    for path in re.findall(r"test_\w+\.py", make.partition("CLUSTER_TESTS ?=")[2].partition("\ncluster:")[0]):
        assert list((DEPLOY.parent / "tests").rglob(path)), path
