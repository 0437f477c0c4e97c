"""The grants for S3 and ClickHouse are files that can be read: their syntax, and no more than the deploy notes name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

GRANTS = Path(__file__).parents[3] / "deploy" / "grants"
# In a process of its own: the engine takes over signals of the process that it is loaded into.
PARSE = """
import sys
import chdb
for statement in sys.stdin.read().split(";"):
    if statement.strip():
        quoted = statement.strip().replace("'", "\\\\'")
        print(str(chdb.query(f"select formatQuerySingleLine('{quoted}')", "TabSeparated")).strip())
"""


def test_clickhouse_s_own_parser_reads_every_grant() -> None:
    lines = (GRANTS / "clickhouse.sql").read_text(encoding="utf-8").splitlines()
    statements = "\n".join(line for line in lines if not line.startswith("--"))
    done = subprocess.run([sys.executable, "-c", PARSE], input=statements, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("GRANT ") == statements.count("grant ") == 5
    assert "ALL" not in done.stdout.split()


def test_the_policies_allow_the_platform_four_actions_and_clickhouse_two() -> None:
    policies = json.loads((GRANTS / "s3-policies.json").read_text(encoding="utf-8"))
    allowed = {
        name: sorted(action for statement in policy["Statement"] for action in statement["Action"])
        for name, policy in policies.items()
    }
    assert allowed == {
        "application": ["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"],
        "clickhouse": ["s3:GetObject", "s3:ListBucket"],
    }
