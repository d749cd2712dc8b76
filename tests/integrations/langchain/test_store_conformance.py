"""Our store passes the store tests of langgraph-checkpoint's own source distribution, unmodified."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import pytest

VERSION = version("langgraph-checkpoint")

#: Tests that the store must fail, each with its reason. There is none.
EXPECTED_FAILURES: dict[str, str] = {}

#: How many tests each version's file has, so that none can go missing unseen.
TESTS = {"4.3.2": 117}


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def upstream(request: pytest.FixtureRequest) -> Path:
    """LangGraph's tests and the plugin that they need, fetched once."""
    root = request.config.cache.mkdir(f"langgraph-checkpoint-{VERSION}")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    if not list(root.glob("*.tar.gz")):
        run(*pip, "install", "--no-deps", "--target", "plugins", "pytest-mock>=3.15", cwd=root)
        source = "langgraph-checkpoint"
        run(*pip, "download", "--no-deps", "--no-binary", source, f"{source}=={VERSION}", cwd=root)
    [archive] = root.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if re.fullmatch(r"[^/]+/tests/[^/]+\.py", member.name)]
        for member in members:
            member.name = member.name.split("/", 1)[1]
        tar.extractall(root, members, filter="data")
    return root


def test_the_store_tests_of_langgraph_pass_with_our_class(upstream: Path, tmp_path: Path):
    report = tmp_path / "report.xml"
    here = Path(__file__).parent
    output = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "swapped_store", "-p", "no:cacheprovider"),
            *("-c", os.devnull, "--rootdir", str(upstream), "-o", "asyncio_mode=auto"),
            *("--junitxml", str(report), "tests/test_store.py"),
        ],
        cwd=upstream,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(upstream / "plugins"), str(upstream)])},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    cases = list(ET.parse(report).iter("testcase"))
    ended: dict[str, set[str]] = {"failure": set(), "error": set(), "skipped": set()}
    for case in cases:
        for outcome, names in ended.items():
            if case.find(outcome) is not None:
                names.add(case.attrib["name"])
    assert ended == {"failure": set(EXPECTED_FAILURES), "error": set(), "skipped": set()}, output[-4000:]
    assert len(cases) == TESTS.get(VERSION, len(cases))
    assert len(cases) >= 100
    [opened] = re.findall(r"stores opened: (\d+)", output)
    assert int(opened) > 50, "the class was not swapped"
