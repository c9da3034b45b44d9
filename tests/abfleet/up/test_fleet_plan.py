"""Which workers get which ports: pure."""

from abfleet_experiments.file.load import load_text
from hypothesis import given
from hypothesis import strategies as st

from abfleet.up.fleet_plan import PortBase, ReplicaId, fixed_addresses, is_address, is_own, replica_ids, slots

VERSIONS = st.lists(st.sampled_from([f"v{n}" for n in range(8)]), unique=True, max_size=8)
REPLICAS = st.dictionaries(st.sampled_from([f"v{n}" for n in range(8)]), st.integers(1, 5))


def test_ports_are_in_file_order_whatever_the_replicas() -> None:
    """First workers have 50061, 50062, … and metrics 8001, 8002, … in file order; further replicas come after all."""
    wanted = replica_ids(["a", "b", "c"], {"b": 3, "a": 2})
    given_slots = slots(wanted, {})
    ports = PortBase()
    assert [(replica_id.name, ports.listen(slot), ports.metrics(slot)) for replica_id, slot in given_slots.items()] == [
        ("worker-a", "127.0.0.1:50061", 8001),
        ("worker-b", "127.0.0.1:50062", 8002),
        ("worker-c", "127.0.0.1:50063", 8003),
        ("worker-a-2", "127.0.0.1:50064", 8004),
        ("worker-b-2", "127.0.0.1:50065", 8005),
        ("worker-b-3", "127.0.0.1:50066", 8006),
    ]


def test_any_free_port_and_no_metrics() -> None:
    """0 stays 0 for every worker, and no metrics are no metrics."""
    assert [PortBase(worker_port=0).listen(slot) for slot in (0, 7)] == ["127.0.0.1:0"] * 2
    assert [PortBase(metrics_port=0).metrics(slot) for slot in (0, 7)] == [0, 0]
    assert PortBase(metrics_port=None).metrics(3) is None


@given(before=VERSIONS, after=VERSIONS, replicas=REPLICAS, unusable=st.sets(st.integers(0, 12)))
def test_an_edit_moves_nobody(
    before: list[str], after: list[str], replicas: dict[str, int], unusable: set[int]
) -> None:
    """A worker keeps its slot over any edit; no slot is given twice, nor one that is not to be used."""
    held = slots(replica_ids(before, replicas), {})
    staying = {replica_id: slot for replica_id, slot in held.items() if replica_id.version in after}
    found = slots(replica_ids(after, replicas), staying, unusable)
    assert found.items() >= staying.items()
    assert len(set(found.values())) == len(found)
    assert not {slot for replica_id, slot in found.items() if replica_id not in staying} & unusable
    assert set(found) == set(replica_ids(after, replicas))


@given(versions=VERSIONS, replicas=REPLICAS)
def test_slots_are_dense(versions: list[str], replicas: dict[str, int]) -> None:
    """The first fleet has the slots from 0 on, in the order of the replicas."""
    wanted = replica_ids(versions, replicas)
    assert list(slots(wanted, {}).values()) == list(range(len(wanted)))
    assert len(wanted) == sum(replicas.get(version, 1) for version in versions)


def test_names_are_ignored_and_addresses_respected() -> None:
    """A DNS name, with or without the scheme, is for other deployments; addresses and sockets are what they are."""
    config = load_text(
        '{version: 1, default: a, models: {a: {target: ["dns:///worker:50061", "127.0.0.1:7"]}, '
        'b: {target: "worker-b:50061"}, c: {target: "unix:/run/c.sock"}}}'
    )
    assert fixed_addresses(config, "a") == ("127.0.0.1:7",)
    assert fixed_addresses(config, "b") == ()
    assert fixed_addresses(config, "c") == ("unix:/run/c.sock",)


def test_what_is_an_address_and_whose() -> None:
    """Only loopback addresses can be workers of this machine's own."""
    assert [is_address(t) for t in ("10.0.0.7:1", "[::1]:1", "unix:x", "host:1", "dns:///10.0.0.7:1", "1a.b:1")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert [is_own(a) for a in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "10.0.0.7:1", "unix:/x", "[fe80::1]:1")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert ReplicaId("v1", 0).name == "worker-v1"
