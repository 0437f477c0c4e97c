"""`make sbom`: every pinned package is in the bill of materials, with its version.

python -m tests.sbom build/sbom.cdx.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    listed = {canonicalize_name(each["name"]): str(each["version"]) for each in document["components"]}
    missing = 0
    wanted = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if "==" in line and line[0] != "#"]
    for line in wanted:
        pinned = Requirement(line)
        version = listed.get(canonicalize_name(pinned.name), "absent")
        if (pinned.marker is None or pinned.marker.evaluate()) and not pinned.specifier.contains(version):
            missing += 1
            console.print(f"{pinned} is {version} in the bill of materials", markup=False)
    console.print(
        f"{len(listed)} packages in the bill of materials; {len(wanted)} are pinned, {missing} wrongly listed"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
