"""The house: each part imports only from the parts above it, and the core imports no framework and no driver."""

import ast
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import powauth

SOURCE = Path(powauth.__file__).parent

LINES = (
    ("errors",),
    ("_forks", "_extras", "_options", "_overrides"),  # helpers that know nothing of sessions
    ("_running", "_times"),  # asks _extras about anyio, _options for a message, and _forks about the process
    ("_outages",),
    ("backends.base",),
    ("events",),
    ("backends",),
    ("sessions",),
    ("accounts",),
    ("http",),
    ("plug",),
    ("request_auth",),
    ("",),  # powauth itself: what the parts below are made of
    ("integrations",),
    ("pages",),
    ("extensions",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
"""The parts from the top. A part that is a package is one line: its modules may import each other, but in no circle."""

WRAPPED = {
    "lmdb": ("backends.lmdb", "backends._lmdb_engine"),
    "redis": (
        "backends.redis",
        "backends._redis_clients",
        "backends._redis_connections",
        "backends._redis_errors",
        "backends._redis_invalidations",
        "backends._redis_messages",
        "backends._redis_scripts",
    ),
    "psycopg": ("backends._sql_engine",),
    "argon2": ("accounts.passwords", "accounts.schemes"),
    "bcrypt": ("accounts.bcrypt_schemes",),
    "email_validator": ("accounts.identifiers",),
    "starlette": ("integrations.starlette", "pages.starlette"),
    "fastapi": ("integrations.fastapi", "pages.fastapi"),
    "pydantic": ("integrations._pydantic",),
    "pydantic_core": ("integrations._pydantic",),
    "litestar": ("integrations.litestar", "pages.litestar"),
    "flask": ("integrations._flask_requests", "integrations.flask", "pages.flask"),
    "werkzeug": ("integrations._flask_requests", "integrations.flask"),
    "anyio": ("_running", "integrations.asgi", "integrations.litestar", "integrations.websockets", "testing.clients"),
    "jinja2": ("pages.rendering", "extensions.letters"),
    "fido2": ("extensions.passkeys.answers", "extensions.passkeys.ceremonies"),
    "cryptography": ("extensions.passkeys.ceremonies", "extensions.sealing", "extensions.second_factor.totp"),
    "markupsafe": ("pages.rendering",),  # comes with jinja2
    "blinker": ("integrations.signals",),
    "pyotp": ("extensions.second_factor.totp",),
    "segno": ("extensions.second_factor.totp", "extensions.second_factor.totp_pages"),
    "pytest": ("testing",),
}
"""Who may import what is no part of Python; besides these, SQLAlchemy has its modules in two packages."""

OPTIONAL = {*WRAPPED, "sqlalchemy", "aiosqlite", "asyncpg", "pymysql", "asyncmy", "trio", "httpx"}


class Import(NamedTuple):
    """One import of a module, wherever in it."""

    module: str
    line: int
    target: str


def name_of(path: Path) -> str:
    """The module's name below ``powauth``; the package itself is the empty one."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports_of(module: str) -> Iterator[Import]:
    """All imports of a module, those in functions among them, with the full name of what is imported."""
    path = MODULES[module]
    package = [*module.split("."), "x"] if path.name == "__init__.py" else module.split(".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(["powauth", *package[: len(package) - node.level], *filter(None, [base])])
            for alias in node.names:
                below = f"{base}.{alias.name}".removeprefix("powauth.")
                yield Import(module, node.lineno, f"{base}.{alias.name}" if below in MODULES else base)


ALL = [imported for module in MODULES for imported in imports_of(module)]
INNER = [
    imported._replace(target=imported.target.removeprefix("powauth").removeprefix("."))
    for imported in ALL
    if imported.target.partition(".")[0] == "powauth"
]
OUTER = [
    imported
    for imported in ALL
    if (top := imported.target.partition(".")[0]) not in sys.stdlib_module_names and top not in ("powauth", "msgspec")
]


def is_in(module: str, part: str) -> bool:
    return module == part or (bool(part) and module.startswith(f"{part}."))


def line_of(module: str) -> int:
    """The number of the module's line; the longest name that fits decides."""
    fitting = [(len(part), number) for number, line in enumerate(LINES) for part in line if is_in(module, part)]
    assert fitting, f"{module} has no place in the house"
    return max(fitting)[1]


def test_every_module_has_its_place() -> None:
    assert len(MODULES) > 20
    for module in MODULES:
        line_of(module)


def test_each_module_imports_only_from_lines_above_it() -> None:
    wrong = [
        imported
        for imported in INNER
        if (own := line_of(imported.module)) < (other := line_of(imported.target))
        or (own == other and imported.module.partition(".")[0] != imported.target.partition(".")[0])
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for imported in INNER:
        below[imported.module].add(imported.target)
    left = dict(below)
    while leaves := [module for module, targets in left.items() if not targets & left.keys()]:
        for leaf in leaves:
            del left[leaf]
    assert left == {}


def test_the_core_imports_msgspec_and_the_standard_library_only() -> None:
    shell = ("backends", "accounts", "integrations", "pages", "extensions", "testing")
    core = [imported for imported in OUTER if imported.module.partition(".")[0] not in shell]
    # _running asks for anyio where it gives a job to a worker thread, and does without it on asyncio.
    assert {(imported.module, imported.target.partition(".")[0]) for imported in core} == {("_running", "anyio")}
    assert [imported for imported in OUTER if imported.module.endswith(".base")] == []


def test_each_driver_and_framework_is_imported_by_what_wraps_it_alone() -> None:
    for imported in OUTER:
        top = imported.target.partition(".")[0]
        if top == "sqlalchemy":
            sql = {"sql", "_sql_connections", "_sql_engine", "_sql_errors", "_sql_forks", "_sql_statements"}
            sql |= {"_sql_running", "_sql_sharing", "_sql_turns", "_sqlite_reader"}
            tables = [
                module for module in MODULES if re.fullmatch(r"extensions\.(lock|\w+\._?(columns|tables?))", module)
            ]
            places: tuple[str, ...] = (*(f"backends.{name}" for name in sql), "accounts", *tables)
            assert imported.module != "accounts.base"
        else:
            places = WRAPPED.get(top, ())
        assert any(is_in(imported.module, place) for place in places), imported


def test_integrations_and_what_is_below_them_are_not_imported_by_the_core() -> None:
    edge = line_of("")
    assert [imported for imported in INNER if line_of(imported.module) <= edge < line_of(imported.target)] == []


def test_the_core_does_not_know_the_users_of_its_sessions_nor_the_requests_of_its_accounts() -> None:
    knows = {(imported.module.partition(".")[0], imported.target.partition(".")[0]) for imported in INNER}
    assert not {("sessions", "accounts"), ("sessions", "http"), ("accounts", "http")} & knows


CORE = ("sessions", "accounts", "plug", "http", "pages", "request_auth")
"""The parts that must not know the name of an extension."""


def features() -> set[str]:
    """The names of the extensions: of their modules, and of their classes."""
    found = set()
    for module, path in MODULES.items():
        if not is_in(module, "extensions"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            bases = [base.value if isinstance(base, ast.Subscript) else base for base in getattr(node, "bases", [])]
            if any(isinstance(base, ast.Name) and base.id == "Extension" for base in bases):
                feature = f"extensions.{module.split('.')[1]}"
                exported = re.findall(r"\w+", MODULES[feature].read_text(encoding="utf-8").rpartition("__all__")[2])
                found |= {feature, *({getattr(node, "name", "")} & {*exported})}
    return found


def test_the_core_names_no_extension() -> None:
    """Neither in a text, nor in a comment, a docstring or a template. That it imports none is tested above."""
    names = features()
    assert {"Audit", "Lock", "ResetPassword", "extensions.confirm_email"} <= names
    # "Lock" alone is a word of English, too.
    known = [rf"`{name}`|\.{name}\b" if name.lower() == name[0].lower() + name[1:] else name for name in sorted(names)]
    pattern = re.compile(rf"(?<!threading\.)(?<!\w)(?:{'|'.join(known)})(?!\w)")
    files = [path for part in CORE for path in [SOURCE / f"{part}.py", *(SOURCE / part).rglob("*")] if path.is_file()]
    texts = {path: texts_of(path) for path in files if path.suffix in (".py", ".html", ".css")}
    assert len(texts) > 100
    assert [(path.name, found[0]) for path, text in texts.items() for found in pattern.finditer(text)] == []


def texts_of(path: Path) -> str:
    """The strings and comments of a module, or all of another file."""
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8")
    with path.open("rb") as file:
        kinds = (tokenize.STRING, tokenize.COMMENT)
        return "\n".join(token.string for token in tokenize.tokenize(file.readline) if token.type in kinds)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_depends_on_tricks_of_the_interpreter(module: str) -> None:
    """No reference counts, no attribute look-ups of one's own, and no objects that pretend to be a dict."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        names = {getattr(node, field, None) for field in ("id", "attr", "name")}
        assert not names & {"getrefcount", "__getattribute__"}, f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
            assert not bases & {"dict", "Dict", "OrderedDict", "defaultdict", "UserDict"}, node.name


def test_importing_powauth_imports_no_driver_and_no_framework() -> None:
    code = "import sys, powauth; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, timeout=60)
    loaded = set(done.stdout.split())
    assert {"powauth", "msgspec"} <= loaded
    assert loaded & OPTIONAL == set()


def test_what_powauth_exports_is_there() -> None:
    assert powauth.__all__ == sorted(powauth.__all__)
    assert all(hasattr(powauth, name) for name in powauth.__all__)


def test_every_error_is_exported() -> None:
    defined = {name for name, value in vars(powauth.errors).items() if isinstance(value, type)}
    assert defined - set(powauth.__all__) == {"Mapping", "Sequence", "timedelta"}


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    private = "._" in f".{module}"
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, definitions) and not node.name.startswith("_") and not ast.get_docstring(node)
        if "overload" not in [ast.unparse(decorator) for decorator in node.decorator_list]
    ]
    assert private or bare == []
    assert ast.get_docstring(tree)
