"""A user's program passes strict mypy and pyright, and the types are the app's own.

The programs beside this file say by ``assert_type`` what they expect. The programs of the README and the docs are
checked as they are printed.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.page_programs import Page, read_pages

HERE = Path(__file__).parent
SECONDS = 300
PAGES = [page for page in read_pages() if page.programs]

EXPECTED = """
from typing import assert_type
from model import auth
from powauth.integrations.flask import PowAuth
assert_type(PowAuth(auth=auth).current_user, int)
"""


def pyright(folder: Path, *roots: Path) -> subprocess.CompletedProcess[str]:
    """Check programs with pyright, in its strict mode. Each root is a program of its own."""
    options = {
        "typeCheckingMode": "strict",
        "include": [str(root) for root in roots],
        "executionEnvironments": [{"root": str(root)} for root in roots],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(options))
    command = [sys.executable, "-m", "basedpyright", "--project", str(folder), "--pythonpath", sys.executable]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def mypy(cache: Path, root: Path, *files: str) -> subprocess.CompletedProcess[str]:
    """Check files with ``mypy --strict``, as a user does: without this project's configuration."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(cache), *files]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_rep_09_mypy_knows_the_apps_own_types(cache: Path) -> None:
    done = mypy(cache, HERE, *(path.name for path in HERE.glob("typed_*.py")))
    assert done.returncode == 0, done.stdout + done.stderr


def test_rep_09_pyright_knows_the_apps_own_types(tmp_path: Path) -> None:
    root = tmp_path / "programs"
    root.mkdir()
    for path in (HERE / "model.py", *HERE.glob("typed_*.py")):
        (root / path.name).write_text(path.read_text())
    done = pyright(tmp_path, root)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rep_09_the_programs_of_the_pages_pass_pyright(tmp_path: Path) -> None:
    roots = []
    for page in PAGES:
        root = tmp_path / Path(page.name).stem
        root.mkdir()
        page.write(root)
        roots.append(root)
    done = pyright(tmp_path, *roots)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_rep_09_the_programs_of_the_pages_pass_mypy(page: Page, cache: Path, tmp_path: Path) -> None:
    page.write(tmp_path)
    done = mypy(cache, tmp_path, *(program.name for program in page.programs))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_type_is_found(cache: Path, tmp_path: Path) -> None:
    """Both checkers really read the programs and powauth's types."""
    (tmp_path / "model.py").write_text((HERE / "model.py").read_text())
    (tmp_path / "wrong.py").write_text(EXPECTED)
    for done in (mypy(cache, tmp_path, "wrong.py"), pyright(tmp_path, tmp_path)):
        assert done.returncode == 1
        assert '"Me"' in done.stdout
        assert '"int"' in done.stdout
