"""Who is let in: names, origins, tokens."""

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.live.view.access import is_loopback, open_access, page_url


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - that it is not private is the point
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_only_addresses_of_this_machine_alone_are_loopback(host, expected) -> None:
    assert is_loopback(host) is expected
    assert (open_access(host).token is None) is expected


@pytest.mark.parametrize(
    "header", ["localhost:8050", "127.0.0.1:8050", "[::1]:8050", "LocalHost", "localhost:9999"]
)
def test_loopback_answers_to_its_names_at_any_port(header) -> None:
    assert open_access("127.0.0.1").accepts_host(header)


@pytest.mark.parametrize(
    "header",
    [
        "rebound.example.org:8050",
        "192.168.0.7:8050",
        "localhost.example.org",
        "localhost:8050:1",
        "a@localhost",
        "localhost/",
        "localhost:",
        "",
        None,
        "localhost\n",
        "[::1",
        "127.0.0.1 ",
    ],
)
def test_loopback_refuses_every_other_name(header) -> None:
    assert not open_access("127.0.0.1").accepts_host(header)


def test_elsewhere_addresses_are_answered_and_names_must_be_known() -> None:
    access = open_access("0.0.0.0", ["Scanner.lab"])  # noqa: S104
    assert all(access.accepts_host(host) for host in ("10.0.0.3:8050", "[fe80::1]:8050", "scanner.lab:1"))
    assert not access.accepts_host("rebound.example.org:8050")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8050", True),
        ("https://localhost:8050", True),  # behind a proxy that encrypts
        ("http://localhost:8051", False),
        ("http://localhost", False),
        ("http://example.org", False),
        ("http://localhost:8050.example.org", False),
        ("null", False),
        ("", False),
        (None, False),
    ],
)
def test_origin_must_be_the_page_itself(origin, expected) -> None:
    access = open_access("127.0.0.1")
    assert access.accepts_origin(origin, "localhost:8050") is expected
    assert not access.accepts_origin(origin, None)


@given(
    st.one_of(
        st.none(), st.text(), st.text(alphabet="abcdefghijklmnopqrstuvwxyzABCDEF-_0123456789", min_size=40)
    )
)
def test_no_other_text_is_the_token(given_token) -> None:
    assert not open_access("0.0.0.0").accepts_token(given_token)  # noqa: S104


def test_token_is_new_each_time_and_in_the_url() -> None:
    one, other = open_access("0.0.0.0"), open_access("0.0.0.0")  # noqa: S104
    assert one.token != other.token
    assert one.token is not None
    assert len(one.token) >= 43  # 32 random bytes
    parts = urlsplit(page_url("192.168.0.7", 8050, one.token))
    assert (parts.netloc, parts.path) == ("192.168.0.7:8050", "/")
    assert one.accepts_token(parse_qs(parts.query)["token"][0])
    assert not other.accepts_token(one.token)
    assert not one.accepts_token(one.token[:-1])


def test_url_without_token() -> None:
    assert page_url("127.0.0.1", 8050, None) == "http://127.0.0.1:8050/"
    assert page_url("::1", 8050, None) == "http://[::1]:8050/"
    assert "0.0.0.0" not in page_url("0.0.0.0", 8050, None)  # noqa: S104
