"""What we use of the inside of libraries, which promise nothing about it: why these have an upper bound."""

import tomllib
from pathlib import Path

import hpack
import pytest
from grpc._cython import cygrpc
from grpc.aio import _server as library
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize(("name", "bound"), [("grpcio", "<1.87"), ("hpack", "<5")])
def test_what_is_used_from_inside_has_an_upper_bound(name: str, bound: str) -> None:
    """A newer version comes only when somebody has tried it: raise the bound together with these tests."""
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (requirement,) = (one for one in dependencies if one.startswith(f"{name}>="))
    assert requirement.endswith(f",{bound}")


@pytest.mark.parametrize("name", ["_make_request_call_future", "_request_call"])
def test_grpcio_has_the_two_methods_that_take_calls(name: str) -> None:
    """Without them http2's and grpcio's shared promise breaks: one frame with a path that is not UTF-8 would end the
    grpcio server, as it ends the library's own, and cut the calls under way."""
    assert callable(getattr(cygrpc.AioServer, name))


@pytest.mark.parametrize("name", ["_MethodResolver", "_handle_rpc", "_schedule_rpc_coro", "get_working_loop"])
def test_grpcio_can_be_asked_to_answer_a_call_of_no_method(name: str) -> None:
    """Without them an unknown method would be left without an answer instead of getting UNIMPLEMENTED."""
    assert callable(getattr(cygrpc, name))


def test_grpcio_takes_a_server_whose_compiled_part_is_ours() -> None:
    """Without this a grpcio server of ours could not be made: it fills the two fields that the library uses."""
    assert callable(library._augment_channel_arguments)
    assert {"_loop", "_server"} <= {name for name in library.Server.__init__.__code__.co_names if name[0] == "_"}


def test_hpack_has_the_static_table_of_the_rfc() -> None:
    """Without it a header block that names an entry by its number would be read as another header (RFC 7541, A)."""
    table = HeaderTable.STATIC_TABLE
    assert len(table) == 61
    assert (table[0], table[2], table[60]) == ((b":authority", b""), (b":method", b"POST"), (b"www-authenticate", b""))


def test_hpack_decodes_huffman_by_itself() -> None:
    """Without it a path or a header with Huffman coding could not be read at all (RFC 7541, C.4.1)."""
    assert decode_huffman(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"


def test_hpack_bounds_a_header_list() -> None:
    """Without the bound one small block that refers to a large entry again and again would fill the memory."""
    decoder = hpack.Decoder(max_header_list_size=64)
    block = hpack.Encoder().encode([("a", "b" * 100)])
    with pytest.raises(hpack.OversizedHeaderListError):
        decoder.decode(block)
