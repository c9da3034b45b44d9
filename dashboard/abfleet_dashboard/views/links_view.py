"""Links to where an operator keeps more: Grafana, and a place that shows traces."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

PLACE: Final = "{experiment}"
"""In an address, the name of the experiment whose page has the link."""


@dataclass(frozen=True, slots=True)
class OutsideLink:
    """One link. `address` begins with http:// or https://, which is checked where it is given."""

    name: str
    address: str


def links_of(links: Iterable[OutsideLink], experiment: str | None = None) -> tuple[OutsideLink, ...]:
    """The links for a page: of one experiment, or of none, where those that need one are left out."""
    if experiment is None:
        return tuple(link for link in links if PLACE not in link.address)
    return tuple(OutsideLink(link.name, link.address.replace(PLACE, quote(experiment, safe=""))) for link in links)
