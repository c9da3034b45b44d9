"""From when to when a certificate is valid. Reads the few fields of DER that lead there, verifies nothing."""

import ssl
from datetime import UTC, datetime

UTC_TIME, GENERALIZED_TIME, VERSION = 0x17, 0x18, 0xA0
END = "-----END CERTIFICATE-----"


def validity(pem: bytes) -> tuple[float, float]:
    """Begin and end of the first certificate of a PEM file, in seconds since the epoch (RFC 5280, section 4.1).

    Raises ValueError when there is none.
    """
    text = pem.decode("ascii", "replace")
    begin = text.find("-----BEGIN CERTIFICATE-----")
    end = text.find(END, begin)
    if begin < 0 or end < 0:
        raise ValueError("it has no certificate in PEM form")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(END)])
    try:
        _, certificate, _ = _element(der, 0)
        _, signed, _ = _element(certificate, 0)
        kind, _, place = _element(signed, 0)
        if kind == VERSION:
            _, _, place = _element(signed, place)  # the serial number follows the version
        for _ in ("signature", "issuer"):
            _, _, place = _element(signed, place)
        _, dates, _ = _element(signed, place)
        kind, not_before, place = _element(dates, 0)
        begins = _seconds(kind, not_before)
        kind, not_after, _ = _element(dates, place)
        return begins, _seconds(kind, not_after)
    except IndexError as error:
        raise ValueError("its certificate is incomplete") from error


def _element(der: bytes, place: int) -> tuple[int, bytes, int]:
    """Tag, content, and the place after it. Raises IndexError where the bytes end before it does."""
    tag, length, place = der[place], der[place + 1], place + 2
    if length & 0x80:
        count = length & 0x7F
        length, place = int.from_bytes(der[place : place + count], "big"), place + count
    if place + length > len(der):
        raise IndexError(place)
    return tag, der[place : place + length], place + length


def _seconds(kind: int, text: bytes) -> float:
    if kind not in (UTC_TIME, GENERALIZED_TIME):
        raise ValueError("its dates have a form that is not known")
    # RFC 5280: two digits below 50 are of this century; strptime would say 69.
    year = text if kind == GENERALIZED_TIME else (b"20" if text[:2] < b"50" else b"19") + text
    return datetime.strptime(year.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
