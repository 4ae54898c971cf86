from __future__ import annotations

import pytest

from sweeper.core.errors import UsageError
from sweeper.core.urls import database_url


def refusal(url: str) -> str:
    """The message with which `url` is refused; always one line."""
    with pytest.raises(UsageError) as caught:
        database_url(url)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("postgres://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql://u:p@h/db", "postgresql+psycopg://u:p@h/db"),
        ("postgresql+psycopg://u:p@h:5433/db", "postgresql+psycopg://u:p@h:5433/db"),
        ("sqlite:///folder/file.db", "sqlite:///folder/file.db"),
    ],
)
def test_a_storage_url_means_what_it_says(written: str, meant: str) -> None:
    assert database_url(written).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize(
    "written", ["", "sweeper.db", "foo://x", "mysql://u:canary@h/db", "mysql://u:can/ary@h/db", "mysql+x://u:canary@h"]
)
def test_any_other_storage_url_is_refused_without_its_password(written: str) -> None:
    message = refusal(written)
    assert "use sqlite:///FILE or postgresql://" in message
    assert "ary" not in message


def test_a_password_with_an_at_sign_is_not_shown() -> None:
    assert "ary" not in refusal("mysql://u:can@ary@h/db")


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://h/db?password=canary",
        "postgresql://h/db#x?host=/tmp&PassWord=canary",
        "postgres://u:p@h/db?p%61ssword=canary&user=u",
        "postgresql+psycopg://h/db?sslpassword=canary",
        "sqlite:///file.db?password=canary",
    ],
)
def test_a_password_in_the_query_of_a_url_is_refused_and_not_shown(written: str) -> None:
    message = refusal(written)
    assert "password=***': other users can see the part after the ?. Put the password into ~/" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    "written", ["mysql://h/db?password=canary", "postgresql://h:port/db?user=u&sslpassword=canary"]
)
def test_a_url_that_is_refused_for_something_else_does_not_show_it_either(written: str) -> None:
    assert "password=***'" in refusal(written)


def test_a_file_of_passwords_may_be_named_in_the_query_of_a_url() -> None:
    assert database_url("postgresql://h/db?passfile=/x/pgpass").query == {"passfile": "/x/pgpass"}


def test_a_port_that_is_no_number_is_refused() -> None:
    assert "canary" not in refusal("postgresql://u:canary@h:port/db")
