"""Unknown items are counted rightly, whichever way the catalogue looks them up."""

import numpy as np
import pytest
from abfleet_models.graph.reading import NotOnnxError, read_int64
from abfleet_models.registry import Registry
from abfleet_worker.catalogue import MOST_BITS, Catalogue
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fleet import MODELS

ids = st.one_of(st.integers(-5, 50), st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, MOST_BITS - 1, MOST_BITS]))


@settings(deadline=None)
@given(
    known=st.lists(st.one_of(st.integers(-3, 50), st.just(MOST_BITS - 1), st.just(MOST_BITS), st.just(2**62))),
    rows=st.lists(st.lists(ids, min_size=6, max_size=6), max_size=5),
)
def test_it_counts_as_a_set_does(known: list[int], rows: list[list[int]]) -> None:
    """For any catalogue, with small ids or huge ones, and any histories: items are what is not 0, and unknown is what
    is not in the set."""
    history = np.array(rows, dtype=np.int64).reshape(len(rows), 6)
    items = [item for row in rows for item in row if item]
    catalogue = Catalogue(np.array(known, dtype=np.int64))
    known_items = {item for item in known if item > 0}
    assert len(catalogue) == len(known_items)
    assert catalogue.count(history) == (len(items), sum(item not in known_items for item in items))


@pytest.mark.parametrize("version", ["v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"])
def test_the_catalogue_is_read_from_the_graph(version: str) -> None:
    """The models that ship tell their items: films of MovieLens by id, and no film that was rated too seldom."""
    content = Registry(MODELS).resolve(version).read_verified()
    raw = read_int64(content, "item_ids_by_number")
    assert raw is not None
    catalogue = Catalogue(np.frombuffer(raw, dtype="<i8").astype(np.int64))
    assert len(catalogue) == 2269
    assert catalogue.count(np.array([[0, 1, 2, 3, 10, 15, 2**40]])) == (6, 1)


def test_a_constant_that_is_not_there_is_none() -> None:
    """Another name, another type, or bytes that are no model."""
    content = Registry(MODELS).resolve("v1.2.3").read_verified()
    assert read_int64(content, "nothing") is None
    assert read_int64(content, "number_of_id") is None
    with pytest.raises(NotOnnxError):
        read_int64(b"\x3a\x7f", "item_ids_by_number")
