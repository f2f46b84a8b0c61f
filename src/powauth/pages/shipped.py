"""The templates and the style sheet that powauth brings, and how an app gets its own copy of them."""

from pathlib import Path

from powauth.errors import ConfigError

SHIPPED = Path(__file__).parent / "templates"
"""Where they are."""

STYLE = "style.css"


def copy_templates(folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Copy all shipped files into ``folder``, which is made if there is none; the files written.

    Raises:
        ConfigError: if a file is there already, unless ``overwrite``: nothing is written then; or if nothing can be
            written there.
    """
    target = Path(folder)
    sources = sorted(path for path in SHIPPED.iterdir() if path.suffix in (".html", ".css"))
    there = [source.name for source in sources if (target / source.name).exists()]
    if there and not overwrite:
        raise ConfigError(f"{target} has {', '.join(there)} already: choose another folder, or say --force")
    written = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for source in sources:
            (target / source.name).write_bytes(source.read_bytes())
            written.append(target / source.name)
    except OSError as error:
        raise ConfigError(f"cannot write to {target}: {error.strerror}") from error
    return written
