"""`make bench-send`: prints the ratios and, with --docs, writes them to docs/benchmarks-send.md with plots.

python -m bench.send --leads 20000 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from bench.send.answering_server import answering_server
from bench.send.sender_alone import in_a_process, seed_leads
from email_platform.adapters.assembly import open_oltp
from email_platform.local.stack.stack import running_stack, surroundings
from email_platform.settings import variable_of


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--leads", type=int, default=20_000)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-send-") as folder, answering_server() as url:
        environment = surroundings() | {
            variable_of("provider_url"): url,
            variable_of("provider_api_key"): "bench",
        }
        with running_stack(
            Path(folder) / "state", parts=("postgres", "s3", "clickhouse"), environ=environment
        ) as settings:
            with open_oltp(settings) as engine:
                seed_leads(engine, "bench", chosen.leads)
            for html_bytes in (2_000, 30_000):
                found = in_a_process(
                    environment | {variable_of("state_folder"): str(settings.state_folder)},
                    url,
                    html_bytes,
                    "bench",
                    chosen.rounds,
                    print,
                )
                ratio = statistics.median(a.recipients_per_second / b.recipients_per_second for a, b in found)
                ours = statistics.median(a.processor_microseconds for a, _ in found)
                bare = statistics.median(b.processor_microseconds for _, b in found)
                first = found[0][0]
                print(
                    f"{html_bytes:,} bytes: ratio {ratio:.2f}; processor {ours:.0f} µs a recipient, bare {bare:.1f}; "
                    f"{first.body_bytes / first.calls:,.0f} bytes a call of {first.recipients / first.calls:.0f}; "
                    f"load {os.getloadavg()[0]:.1f}"
                )


if __name__ == "__main__":
    main()
