"""Nothing in the repository looks like a secret: keys, tokens and passwords of well-known forms."""

import re

from tests.test_repository import ROOT, tracked

FORMS = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}",
    "token of ours": r"\babf_[A-Za-z0-9_-]{43}\b",
    "AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "Slack token": r"\bxox[abpr]-[A-Za-z0-9-]{20}",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.",
    "password in an address": r"\b[a-z][a-z0-9+]{1,9}://[^\s/:@'\"<>{}$]{1,40}:[^\s/:@'\"<>{}$]{3,}@",
}
MADE_UP = {
    "private key": "-----BEGIN EC PRIVATE KEY-----\n" + "A" * 80,
    "token of ours": "abf_" + "x" * 43,
    "AWS key": "AKIA" + "A" * 16,
    "GitHub token": "ghp_" + "a" * 36,
    "Slack token": "xoxb-" + "1" * 24,
    "JSON web token": "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + ".",
    "password in an address": "https" + "://me:secret@host",
}


def found_in(text: str) -> list[str]:
    """The forms that a text has."""
    return [form for form, pattern in FORMS.items() if re.search(pattern, text)]


def test_no_tracked_file_holds_a_secret() -> None:
    """Each file under version control that is text; and each form is found where it is."""
    assert {form: found_in(example) for form, example in MADE_UP.items()} == {form: [form] for form in FORMS}
    problems = {}
    for path in tracked():
        if (found := found_in((ROOT / path).read_bytes().decode("utf-8", "ignore"))) and path.suffix != ".onnx":
            problems[str(path)] = found
    assert not problems
