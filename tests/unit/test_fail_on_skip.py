"""CI's promise that no test is skipped is kept by tests/conftest.py; tried on a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SKIPS = {
    "a mark": "import pytest\n@pytest.mark.skip(reason='no browser')\ndef test_it(): pass\n",
    "a condition": "import pytest\n@pytest.mark.skipif(True, reason='no browser')\ndef test_it(): pass\n",
    "the test itself": "import pytest\ndef test_it(): pytest.skip('no browser')\n",
    "a fixture": "import pytest\n@pytest.fixture\ndef it(): pytest.skip('no browser')\ndef test_it(it): pass\n",
    "a module": "import pytest\npytest.skip('no browser', allow_module_level=True)\ndef test_it(): pass\n",
    "a missing package": "import pytest\npytest.importorskip('no_browser', reason='no browser')\ndef test_it(): pass\n",
}


def ended(folder: Path, text: str, fails_on_skip: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (folder / "test_it.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        # Plugins that happen to be installed take most of the time, and the conftest needs none of them.
        env={**os.environ, "EMAIL_PLATFORM_FAIL_ON_SKIP": fails_on_skip, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("text", SKIPS.values(), ids=SKIPS)
def test_a_skip_fails_where_that_is_asked_for_and_says_why(tmp_path: Path, text: str) -> None:
    failed = ended(tmp_path, text, "1")
    assert failed.returncode not in (0, 5)
    assert "no browser" in failed.stdout
    assert "EMAIL_PLATFORM_FAIL_ON_SKIP" in failed.stdout
    assert ended(tmp_path, text, "0").returncode in (0, 5)


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False\n"
    assert ended(tmp_path, text, "1").returncode == 0
