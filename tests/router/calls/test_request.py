"""What a request may say: limits to the byte, errors that name the field, and hostile bytes that never hurt."""

import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_router.calls.request import (
    check_attributes,
    check_user_id,
    explain,
    fields,
    longer,
    parse,
    request_id_of,
    user_id_from_metadata,
    varint,
)
from abfleet_router.errors import SHOWN, InvalidRequest, shown
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field on the wire."""
    size, out = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes([size]) + content


def refused(payload: bytes) -> InvalidRequest:
    """The error of a payload that is not taken."""
    with pytest.raises(InvalidRequest) as caught:
        parse(payload)
    return caught.value


@given(TEXT, st.integers(0, 300))
def test_longer_counts_bytes(text: str, limit: int) -> None:
    """The shortcut for short texts agrees with counting."""
    assert longer(text, limit) == (len(text.encode()) > limit)


@pytest.mark.parametrize("limit", [-1, 101, 2**31 - 1, -(2**31)])
def test_limit_outside_its_range(limit: int) -> None:
    """The error names the field, the value and what is allowed."""
    error = refused(RecommendRequest(limit=limit).SerializeToString())
    assert str(error) == f"limit: {limit} is not allowed; allowed: 1 to 100, or 0 for the default of 10"
    assert error.field == "limit"


@pytest.mark.parametrize("limit", [0, 1, 100])
def test_limit_inside_its_range(limit: int) -> None:
    """Both ends are allowed."""
    assert parse(RecommendRequest(limit=limit).SerializeToString()).limit == limit


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("a" * 256, True),
        ("a" * 257, False),
        ("ü" * 128, True),
        ("ü" * 128 + "a", False),
        ("🦉" * 64, True),
        ("🦉" * 65, False),
    ],
)
def test_user_id_is_measured_in_bytes(text: str, fine: bool) -> None:
    """256 bytes of UTF-8, however many characters that is."""
    if fine:
        assert check_user_id(text) == text
    else:
        with pytest.raises(InvalidRequest, match=r"^user_id: .*256 bytes"):
            check_user_id(text)


@given(st.characters(exclude_categories=["Cs"]))
@example("\x00")
@example("\n")
@example("\x7f")
@example("\x85")
@example("\u2028")
def test_user_id_without_control_characters(character: str) -> None:
    """C0, DEL and C1 are refused, everything else is a matter of taste."""
    control = ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
    try:
        check_user_id(f"a{character}b")
    except InvalidRequest:
        assert control
    else:
        assert not control


@pytest.mark.parametrize(
    ("request_id", "fine"), [("r" * 128, True), ("r" * 129, False), ("ü" * 64, True), ("ü" * 65, False)]
)
def test_request_id_is_measured_in_bytes(request_id: str, fine: bool) -> None:
    """128 bytes; a refused call's own id is logged only where it is a valid one."""
    payload = RecommendRequest(request_id=request_id).SerializeToString()
    assert request_id_of(payload) == (request_id if fine else None)
    if fine:
        assert parse(payload).request_id == request_id
    else:
        assert refused(payload).field == "request_id"


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({f"k{number}": "v" for number in range(33)}, "at most 32"),
        ({"k" * 257: "v"}, "at most 256 bytes"),
        ({"k": "v" * 257}, "at most 256 bytes"),
        ({"k": "ü" * 129}, "at most 256 bytes"),
    ],
)
def test_attributes_past_their_limits(attributes: dict[str, str], says: str) -> None:
    """Number, keys and values are bounded; the error stays short whatever was sent."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        check_attributes(attributes)
    assert caught.value.field.startswith("attributes")
    assert len(str(caught.value)) < 250


def test_attributes_at_their_limits() -> None:
    """32 entries of 256 bytes each way pass."""
    attributes = {f"{number:02d}" + "k" * 254: "v" * 256 for number in range(32)}
    assert check_attributes(attributes) == attributes


@given(st.one_of(TEXT, st.binary(max_size=300), st.integers()))
def test_shown_is_cut(value: object) -> None:
    """Of a wrong value an error repeats at most 64 characters, on one line."""
    assert len(shown(value)) <= SHOWN
    assert "\n" not in shown(value)


class TestMetadata:
    """A user id may come beside the message."""

    def user_id(self, *metadata: tuple[str, str | bytes]) -> str:
        return user_id_from_metadata(dict(metadata))

    def test_both_keys(self) -> None:
        """`x-user-id` is ASCII, `x-user-id-bin` any UTF-8, and the binary one wins."""
        assert self.user_id(("x-user-id", "u-1")) == "u-1"
        assert self.user_id(("x-user-id-bin", "用户".encode())) == "用户"
        assert self.user_id(("x-user-id", "u-1"), ("x-user-id-bin", b"u-2")) == "u-2"
        assert self.user_id(("x-other", "u-1")) == ""
        assert self.user_id(("x-user-id", ""), ("x-user-id-bin", b"")) == ""

    @pytest.mark.parametrize("raw", [b"\xff", b"ab\xc3", b"\xed\xa0\x80"])
    def test_what_is_not_utf_8_names_the_key(self, raw: bytes) -> None:
        """Half a character, a stray byte and a surrogate are refused by the name of the key."""
        with pytest.raises(InvalidRequest, match=r"^x-user-id-bin: ") as caught:
            self.user_id(("x-user-id-bin", raw))
        assert caught.value.field == "x-user-id-bin"

    @pytest.mark.parametrize("key", ["x-user-id", "x-user-id-bin"])
    @pytest.mark.parametrize("raw", [b"a" * 257, b"a\x00b", b"a\nb"])
    def test_the_limits_are_the_same(self, key: str, raw: bytes) -> None:
        """Length and control characters, by the name of the key that was used."""
        with pytest.raises(InvalidRequest, match=rf"^{key}: "):
            self.user_id((key, raw if key.endswith("-bin") else raw.decode()))

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["x-user-id", "x-user-id-bin", "x-synthetic", "a"]),
                st.one_of(TEXT, st.binary(max_size=40)),
            )
        )
    )
    def test_hostile_metadata(self, metadata: list[tuple[str, str | bytes]]) -> None:
        """Whatever comes, it is a user id, none, or an InvalidRequest."""
        found = dict(metadata)
        try:
            user_id_from_metadata(found)
        except InvalidRequest as error:
            assert error.field.startswith("x-user-id")  # noqa: PT017  # both outcomes are right


class TestExplain:
    """Why bytes are no request."""

    @pytest.mark.parametrize(
        ("payload", "name"),
        [
            (field(2, b"\xff"), "user_id"),
            (field(4, b"\xff"), "request_id"),
            (field(5, field(1, b"country") + field(2, b"\xff")), "attributes"),
            (field(1, b"\x01\x02") + field(2, b"ok") + field(4, b"a\xc3"), "request_id"),
            (field(5, field(1, b"k") + field(2, b"v" * 200)) + field(2, b"\xff"), "user_id"),
            (field(2, b"cut")[:-1], "request"),
            (field(2, "ü".encode())[:-1], "request"),
            (field(5, field(1, b"k") + field(2, b"v" * 200))[:-1], "request"),
            (b"\x0f", "request"),
            (b"\xff" * 20, "request"),
        ],
    )
    def test_the_culprit_is_named(self, payload: bytes, name: str) -> None:
        """The field that is not UTF-8, and no other; a cut message is wrong as a whole."""
        error = refused(payload)
        assert error.field == name
        assert str(error).startswith(f"{name}: ")
        assert request_id_of(payload) is None

    @given(st.binary(max_size=200))
    @example(b"2\x01\x80")
    def test_hostile_bytes(self, payload: bytes) -> None:
        """Whatever the bytes are, they parse or are explained, in one pass and without any other error."""
        try:
            RecommendRequest.FromString(payload)
        except DecodeError:
            error = refused(payload)
            assert error.field in ("user_id", "request_id", "attributes", "items", "request")
            assert len(str(error)) < 250
        assert isinstance(explain(payload), InvalidRequest)
        found = list(fields(payload))
        assert sum(len(value) for _, value in found) <= len(payload)

    @given(st.binary(max_size=30), st.integers(0, 35))
    def test_varint_moves_on(self, payload: bytes, position: int) -> None:
        """It takes one byte at least where there is one, ten at most, and never passes the end."""
        _, after = varint(payload, position)
        if position < len(payload):
            assert position < after <= min(len(payload), position + 10)
        else:
            assert after == position

    @given(
        st.lists(st.sampled_from([(2, "user_id"), (4, "request_id")]), min_size=1, max_size=3),
        st.binary(min_size=1, max_size=20),
    )
    def test_any_bad_text_is_found(self, names: list[tuple[int, str]], raw: bytes) -> None:
        """Wherever protobuf refuses a text, the error names a field that really is not UTF-8."""
        payload = b"".join(field(number, raw) for number, _ in names)
        try:
            raw.decode()
        except UnicodeDecodeError:
            assert refused(payload).field == names[0][1]
        else:
            RecommendRequest.FromString(payload)


@given(TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=5), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_a_valid_message_is_taken_as_it_is(
    user_id: str, request_id: str, attributes: dict[str, str], items: list[int]
) -> None:
    """Within the limits, what was sent is what is read."""
    sent = RecommendRequest(user_id=user_id, request_id=request_id[:30], attributes=attributes, item_ids=items)
    assert parse(sent.SerializeToString()) == sent
