"""A second reading of the assignment rules, slow and plain, that shares no code with the product."""

from collections.abc import Mapping, Sequence


def murmur3_x86_32(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32-bit after Austin Appleby's public description."""
    mask, h = 0xFFFFFFFF, seed
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        h ^= _mixed(int.from_bytes(data[start : start + 4], "little"))
        h = ((h << 13 | h >> 19) * 5 + 0xE6546B64) & mask
    if tail := data[whole:]:
        h ^= _mixed(int.from_bytes(tail, "little"))
    h ^= len(data)
    h = ((h ^ h >> 16) * 0x85EBCA6B) & mask
    h = ((h ^ h >> 13) * 0xC2B2AE35) & mask
    return h ^ h >> 16


def _mixed(k: int) -> int:
    k = k * 0xCC9E2D51 & 0xFFFFFFFF
    k = (k << 15 | k >> 17) & 0xFFFFFFFF
    return k * 0x1B873593 & 0xFFFFFFFF


def bucket(salt: str, user_id: str) -> int:
    """0 to 9,999."""
    return (murmur3_x86_32((salt + ":" + user_id).encode()) * 10000) >> 32


def group_of(weights_bp: Sequence[int], user_bucket: int) -> int:
    """Index of the group, control first and at most two treatments after it, without any ramp."""
    _, first, second = [*weights_bp, 0, 0][:3]
    if user_bucket < first:
        return 1
    return 2 if user_bucket >= 10000 - second else 0


def decide(
    file: Mapping[str, object], user_id: str, attributes: Mapping[str, str]
) -> tuple[str | None, str | None, str, str]:
    """Experiment, group, version and reason from the plain values of a file without ramps.

    Audiences are lists of allowed words here; groups are (name, model, weight in basis points), control first.
    """
    default = str(file["default"])
    if not user_id:
        return None, None, default, "no_user_id"
    experiments: list[dict] = list(file["experiments"])  # type: ignore[call-overload]
    for e in experiments:
        if e["enabled"] and user_id in e["overrides"]:
            name, model, _ = next(g for g in e["groups"] if g[0] == e["overrides"][user_id])
            return e["name"], name, model, "override"
    if bucket("holdout", user_id) < file["holdout_bp"]:
        return None, None, default, "holdout"
    layers: list[str] = []
    for e in experiments:
        if e["layer"] not in layers:
            layers.append(e["layer"])
    refused = False
    for layer in layers:
        place, end = bucket("layer/" + layer, user_id), 0
        for e in (e for e in experiments if e["layer"] == layer):
            start, end = end, end + e["traffic_bp"]
            if not start <= place < end or not e["enabled"]:
                continue
            if all(attributes.get(key) in allowed for key, allowed in e["audience"].items()):
                weights = [weight for _, _, weight in e["groups"]]
                name, model, _ = e["groups"][group_of(weights, bucket(e["salt"], user_id))]
                return e["name"], name, model, "allocated"
            refused = True
    if refused:
        return None, None, default, "not_in_audience"
    return None, None, default, "not_in_traffic" if experiments else "no_experiment"
