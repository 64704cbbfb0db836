"""What messages must not hold: passwords in URLs."""

from __future__ import annotations

import pytest

from cspdet.errors import hide_credentials


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://user:Secret99@127.0.0.1:1/cam", "rtsp://***@127.0.0.1:1/cam"),
        ("rtsp://user:Sec@ret99@host/cam@2", "rtsp://***@host/cam@2"),
        ("rtsp:/user:Secret99@host/cam", "rtsp:/***@host/cam"),
        ("rtsp://user:Secret/99@host/cam", "rtsp://***@host/cam"),
        ("https://Secret99@host:8080", "https://***@host:8080"),
        ("http://host/video?user=me&password=Secret99&fps=5", "http://host/video?user=me&password=***&fps=5"),
        ("http://host/x?PWD=Secret99", "http://host/x?PWD=***"),
        ("HTTP://host/x?a=1&access_token=Secret99", "HTTP://host/x?a=1&access_token=***"),
    ],
)
def test_logins_and_secret_values_are_hidden(url, expected):
    assert hide_credentials(url) == expected
    assert hide_credentials(f"a {url}: gone, b {url}") == f"a {expected}: gone, b {expected}"


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://host:554/cam@2",
        "http://host/x?user=me",
        "file:///home/a@b/x.jpg",
        "mail me@host: 3 of 5",
        "https://a.b/c, then me@host",
        "s3://bucket:80",
        "C:/Users/a@b/x.jpg",
    ],
)
def test_other_text_is_unchanged(text):
    assert hide_credentials(text) == text
