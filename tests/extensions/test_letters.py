"""Mail from templates and texts."""

from pathlib import Path
from typing import Any

import pytest

from powauth import ConfigError
from powauth.extensions.letters import Letters, Words

TEXTS = {"note_subject": "News of {title}", "note_intro": "Dear {name}, it takes {minutes} minutes."}


def words(**texts: str) -> Words:
    return Words({**TEXTS, **texts}, "de", "ltr", "A & B")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "letters"
    made.mkdir()
    (made / "note.txt").write_text("{{ texts.note_intro }}\n\n{{ name }}\n")
    (made / "note.html").write_text(
        '{% extends "letter.html" %}{% block content %}<p>{{ texts.note_intro }}</p><b>{{ name }}</b>{% endblock %}'
    )
    return made


def parts(letters: Letters, given: Words, **values: Any) -> tuple[str, str, str]:
    message = letters.compose("note", given, to="ada@example.org", **values)
    assert message["To"] == "ada@example.org"
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    return str(message["Subject"]), text.get_content(), html.get_content()


def test_a_mail_has_a_text_and_an_html_part(folder: Path) -> None:
    subject, text, html = parts(Letters(folder), words(), name="Ada", minutes=60)
    assert subject == "News of A & B"
    assert text == "Dear Ada, it takes 60 minutes.\n\nAda\n"
    assert '<html lang="de" dir="ltr">' in html
    assert "<title>News of A &amp; B</title>" in html
    assert "<p>Dear Ada, it takes 60 minutes.</p>" in html


def test_values_are_escaped_in_html_and_add_no_line(folder: Path) -> None:
    name = "<b>Ada</b>\r\nBcc: x@example.org\x1b[31m\u2028"
    subject, text, html = parts(Letters(folder), words(note_subject="For {name}"), name=name, minutes=1)
    assert "<b>Ada" not in html
    assert "&lt;b&gt;Ada&lt;/b&gt;" in html
    assert "\x1b" not in text + html + subject
    assert [line for line in text.splitlines() if line.startswith("Bcc")] == []
    assert subject == "For <b>Ada</b> Bcc: x@example.org [31m"


def test_a_value_that_looks_like_a_place_is_no_place(folder: Path) -> None:
    _, text, _ = parts(Letters(folder), words(), name="{minutes} {title} {0}", minutes=1)
    assert text.startswith("Dear {minutes} {title} {0}, it takes 1 minutes.")


def test_an_unknown_place_stays(folder: Path) -> None:
    assert "{when}" in parts(Letters(folder), words(note_intro="At {when}"), name="Ada", minutes=1)[1]


def test_a_template_of_the_app_replaces_the_one_of_the_extension(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "note.txt").write_text("Own: {{ name }}")
    (own / "letter.html").write_text("<i>{% block content %}{% endblock %}</i>")
    _, text, html = parts(Letters(folder, own), words(), name="Ada", minutes=1)
    assert text == "Own: Ada\n"
    assert html.startswith("<i><p>Dear Ada")


def test_the_folder_of_the_app_must_exist(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the templates of mail must be a folder that exists"):
        Letters(folder, tmp_path / "none")


@pytest.mark.parametrize("to", ["", "a@example.org, b@example.org", "a@example.org\nBcc: b@example.org"])
def test_a_mail_goes_to_one_address(folder: Path, to: str) -> None:
    with pytest.raises(ValueError, match=r"^the recipient is not one e-mail address"):
        Letters(folder).compose("note", words(), to=to, name="Ada", minutes=1)
