"""Whether items have numbers or names, as the workers of each version say: the versions that stand for each other must
agree, as a call that one of them cannot read would have no fallback."""

import asyncio
from collections.abc import Mapping
from typing import Final

from abfleet_experiments.config import Config
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError

from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.model_metadata import metadata_of
from abfleet_router.fleet.oip_server import ITEM_IDS, TEXTS, WHOLE_NUMBERS
from abfleet_router.fleet.pool import Pool
from abfleet_router.fleet.replica import Replica

KINDS: Final[Mapping[str, str]] = {**dict.fromkeys(WHOLE_NUMBERS, "numbers"), TEXTS: "names"}
"""By the datatype of the output that has a recommender's items."""
NEITHER: Final = ""
"""Of a version that is no recommender, or whose workers do not say."""
ASK_SECONDS: Final = 1.0
LATER: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.RESOURCE_EXHAUSTED})
"""The worker may answer another time."""


class ItemKinds:
    """Changed only on the event loop, by Reloader."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}

    def forget(self) -> None:
        """Workers are asked anew."""
        self._kinds.clear()

    async def find_difference(
        self, config: Config, pools: Mapping[str, Pool], *, before: Config | None = None
    ) -> str | None:
        """What is wrong where versions of the configuration differ; None where they agree as far as is known.

        `before`: what is in force; where no version is added to it, no worker may hold the configuration up.
        """
        if before is not None and not versions(config).keys() - versions(before).keys():
            return None
        await self._learn(config, pools)
        difference = self._difference(config)
        if difference is not None:
            self.forget()  # other workers may come
        return difference

    async def _learn(self, config: Config, pools: Mapping[str, Pool]) -> None:
        """Asks a worker of each version of the configuration that is not known yet and has one."""
        named = versions(config)
        if len(named) > 1:
            asked = [version for version in named if version not in self._kinds and pools[version].available]
            await asyncio.gather(*(self._ask(version, pools[version].available[0]) for version in asked))

    async def _ask(self, version: str, replica: Replica) -> None:
        try:
            answer = await metadata_of(replica.link, replica.oip_model, ASK_SECONDS)
        except TimeoutError:
            return
        except DecodeError:
            self._kinds[version] = NEITHER
        except RpcFailed as error:
            if error.code not in LATER:
                self._kinds[version] = NEITHER
        else:
            types = [tensor.datatype for tensor in answer.outputs if tensor.name == ITEM_IDS]
            self._kinds[version] = KINDS.get(types[0], NEITHER) if types else NEITHER

    def _difference(self, config: Config) -> str | None:
        known = {version: kind for version in versions(config) if (kind := self._kinds.get(version, NEITHER))}
        if len({*known.values()}) < 2:
            return None
        said = ", ".join(f"{version} has {kind}" for version, kind in known.items())
        return (
            f"item ids differ: {said}; the default and all versions of experiments must have numbers, or all of them "
            "names (items.txt)"
        )


def versions(config: Config) -> dict[str, None]:
    """The default and those of enabled experiments, in the file's order."""
    named = (version for one in config.experiments if one.enabled for version in one.versions)
    return dict.fromkeys((config.default, *named))
