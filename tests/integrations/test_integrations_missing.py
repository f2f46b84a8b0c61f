"""An integration whose framework is not installed says which extra to install."""

import importlib.util
import sys
from types import ModuleType

import pytest


def fresh(name: str) -> ModuleType:
    """The module, imported once more beside the one in use."""
    spec = importlib.util.find_spec(f"powauth.integrations.{name}")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["fastapi", "flask"])
def test_a_missing_framework_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from powauth import ConfigError

    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'powauth\[{name}\]'"):
        fresh(name)


def test_asgi_does_without_anyio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anyio", None)
    assert fresh("asgi").HAS_ANYIO is False
    monkeypatch.undo()
    assert fresh("asgi").HAS_ANYIO is True
