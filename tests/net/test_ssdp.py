"""The search for a UPnP gateway, byte by byte."""

import pytest

from warpfleet.net.portmap.ssdp import http_host, location_in, question


def test_the_question_is_that_of_the_device_architecture() -> None:
    assert question("239.255.255.250") == (
        b"M-SEARCH * HTTP/1.1\r\n"
        b"HOST:239.255.255.250:1900\r\n"
        b'MAN:"ssdp:discover"\r\n'
        b"MX:1\r\n"
        b"ST:urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        b"\r\n"
    )
    assert b"HOST:[FF02::C]:1900\r\n" in question("FF02::C")


@pytest.mark.parametrize("header", ["LOCATION: {}", "Location:{}", "location:  {} "])
def test_an_answer_names_a_url(header: str) -> None:
    url = "http://192.0.2.1:5000/root.xml"
    line = header.format(url)
    assert location_in(f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n{line}\r\n\r\n".encode()) == url


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"HTTP/1.1 200 OK\r\nST: x\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nLOCATION: http://192.0.2.1/\r\n\r\n",
        question("239.255.255.250"),
        b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.0.2.1/\r\n\r\n",
    ],
)
def test_what_is_no_answer_names_none(garbage: bytes) -> None:
    assert location_in(garbage) == ""


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://192.0.2.1:5000/root.xml", "192.0.2.1"),
        ("http://[2001:db8::1]:5000/", "2001:db8::1"),
        ("https://192.0.2.1/", ""),
        ("file:///etc/passwd", ""),
        ("http://[", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert http_host(url) == host
