"""The shipped templates and style sheet, and a function that copies them into an app."""

from pathlib import Path

from powauth.errors import ConfigError

SHIPPED = Path(__file__).parent / "templates"
"""The folder of the shipped files."""

STYLE = "style.css"


def copy_templates(folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Copy all shipped files into ``folder``, and return the paths written. Create the folder if it does not exist.

    Raises:
        ConfigError: if a file exists already and ``overwrite`` is not set, in which case nothing is written. Also if
            the folder or a file cannot be written.
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
