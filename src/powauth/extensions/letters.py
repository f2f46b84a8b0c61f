"""Mail with a text and an HTML part, from templates and from the texts of the pages.

A mail called ``reset`` has the templates ``reset.txt`` and ``reset.html`` in the extension's folder, and its subject is
the text ``reset_subject``. `Messages.more` replaces the texts, and a folder of the app replaces the templates.

All values are escaped in HTML. Control characters and line breaks in values become spaces, so no value can add a line.
"""

import re
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Final, NamedTuple

from powauth._extras import needs
from powauth._options import wrong
from powauth.errors import ConfigError
from powauth.extensions.links import FOLDER
from powauth.extensions.mail import compose
from powauth.pages.visit import PageVisit

with needs("pages", "mail of extensions", "jinja2"):
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined, select_autoescape

_PLACE: Final = re.compile(r"\{(\w+)\}")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Words(NamedTuple):
    """The texts for a mail, in the language of the request that causes it.

    Attributes:
        texts: the texts by name.
        lang: the language of the texts.
        direction: the direction of the text.
        title: the name of the app.
    """

    texts: Mapping[str, str]
    lang: str
    direction: str
    title: str


def words_of(visit: PageVisit) -> Words:
    """Return the texts for a mail that a request for a page causes."""
    return Words(visit.texts, visit.messages.lang, visit.messages.direction, visit.settings.title)


def mail_texts_of(extension: str, own: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the texts of an extension's mail, with the app's own in place of powauth's.

    Args:
        extension: the class of the extension, for the error.
        own: powauth's texts.
        given: the app's texts, by the same names.

    Raises:
        ConfigError: if ``given`` has a name that ``own`` lacks. A typo would otherwise change nothing, silently.
    """
    texts = {**own, **(given or {})}
    if unknown := [name for name in texts if name not in own]:
        raise ConfigError(f"mail_texts names {unknown[0]!r}, which is no text of {extension}")
    return texts


class Letters:
    """Makes the mail of one extension.

    Args:
        folder: the folder with the extension's templates.
        own: a folder of the app, whose templates replace those of the same name. ``None`` replaces none.

    Raises:
        ConfigError: if the app's folder does not exist, or Jinja2 is not installed.
    """

    def __init__(self, folder: Path, own: str | Path | None = None) -> None:
        if own is not None and not Path(own).is_dir():
            raise wrong("the templates of mail", "a folder that exists", str(own))
        folders = [*([] if own is None else [own]), folder, FOLDER]
        self._environment: Final = Environment(
            loader=ChoiceLoader([FileSystemLoader(each) for each in folders]),
            autoescape=select_autoescape(["html"], default=False),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def compose(self, name: str, words: Words, /, *, to: str, **values: str | int) -> EmailMessage:
        """Return a mail to one address.

        Args:
            name: the name of the mail.
            words: the texts. ``{name}`` in a text stands for the value of that name, ``{title}`` for the app's name.
            to: the address.
            values: the values, which the templates and the texts can use.

        Raises:
            ValueError: if ``to`` is not exactly one address.
        """
        clean = {key: _one_line(value) for key, value in values.items()} | {"title": _one_line(words.title)}
        texts = {key: _filled(text, clean) for key, text in words.texts.items()}
        subject = _one_line(texts[f"{name}_subject"]).strip()
        context = {"lang": words.lang, "direction": words.direction, "subject": subject, "texts": texts, **clean}
        text, html = (self._environment.get_template(f"{name}.{kind}").render(context) for kind in ("txt", "html"))
        return compose(to=to, subject=subject, text=text, html=html)


def _one_line(value: str | int) -> str:
    return _CONTROLS.sub(" ", str(value))


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with the values in their places. A value that looks like a place stays as it is."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), text)
