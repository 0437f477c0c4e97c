"""The old system's table `email` in MariaDB: the rows of the one in PostgreSQL, in the types that MySQL gives them."""

from __future__ import annotations

from tempfile import NamedTemporaryFile
from typing import Any

from sqlalchemy import Engine

# Types differ from one another as they do in tables that grew: unsigned and signed, latin1 beside utf8mb4, times with
# and without a zone, an enum.
CREATE_EMAIL = """
create table email (
    id bigint unsigned not null auto_increment primary key,
    campaign_id int unsigned not null,
    user_id bigint not null,
    lead_id bigint not null,
    email varchar(500) not null,
    subject text not null,
    status varchar(20) not null default 'queued',
    provider_message_id varchar(100) character set latin1 unique,
    error text,
    sent_at datetime(6) null,
    created_at datetime(6) not null,
    updated_at timestamp(6) not null default current_timestamp(6),
    key ix_email_created_at (created_at),
    key ix_email_campaign_id_status (campaign_id, status)
) engine = InnoDB default character set utf8mb4 collate utf8mb4_unicode_ci
"""
COLUMNS = (
    *("id", "campaign_id", "user_id", "lead_id", "email", "subject", "status", "provider_message_id", "error"),
    *("sent_at", "created_at", "updated_at"),
)
_MOMENT = "'YYYY-MM-DD HH24:MI:SS.US'"


def copy_emails(engine: Engine, mysql: Any, *, batch_ids: int = 500_000) -> int:
    """Fill ``email`` of this MariaDB connection from the one in PostgreSQL; returns the rows.

    PostgreSQL writes a row as LOAD DATA reads it: tabs between columns, a backslash before one inside, \\N for null.
    No transaction stays open there while MariaDB loads, which takes longer than an idle one may at half a million rows.
    """
    columns = [f"to_char({c} at time zone 'UTC', {_MOMENT})" if c.endswith("_at") else c for c in COLUMNS]
    with engine.connect() as connection:
        lowest, highest = connection.exec_driver_sql("select min(id), max(id) from email").one()
    first, last = (0, -1) if lowest is None else (int(str(lowest)), int(str(highest)))
    with mysql.cursor() as cursor:
        cursor.execute(CREATE_EMAIL)
        cursor.execute("set session foreign_key_checks = 0, unique_checks = 0")
        for start in range(first, last + 1, batch_ids):
            statement = (
                f"copy (select {', '.join(columns)} from email where id >= {start} and id < {start + batch_ids} "
                "order by id) to stdout"
            )
            with NamedTemporaryFile(prefix="old-emails-") as file:
                with engine.connect() as connection:
                    driver: Any = connection.connection.driver_connection
                    with driver.cursor().copy(statement) as copy:
                        for block in copy:
                            file.write(block)
                file.flush()
                cursor.execute(
                    f"load data local infile '{file.name}' into table email character set utf8mb4 "
                    f"({', '.join(COLUMNS)})"
                )
        cursor.execute("select count(*) from email")
        ((rows,),) = cursor.fetchall()
    return int(rows)
