"""The peers that the configuration trusts."""

from collections.abc import Iterable, Mapping

from warpfleet.core.errors import WarpfleetError
from warpfleet.core.identity import PublicIdentity


class UntrustedPeer(WarpfleetError):
    """The peer is not one that the configuration trusts."""


class Roster:
    """Trusted identities, by name and by node id."""

    def __init__(self, identities: Iterable[PublicIdentity] = ()) -> None:
        self._by_name: dict[str, PublicIdentity] = {}
        self._by_node_id: dict[str, PublicIdentity] = {}
        self.trust(identities)

    @property
    def by_node_id(self) -> Mapping[str, PublicIdentity]:
        """Node id to identity."""
        return self._by_node_id

    def trust(self, identities: Iterable[PublicIdentity]) -> None:
        """Add identities; a name that comes with another key has that key from now on, and the old one no longer."""
        for identity in identities:
            former = self._by_name.get(identity.name)
            if former is not None:
                self._by_node_id.pop(former.node_id, None)
            self._by_name[identity.name] = identity
            self._by_node_id[identity.node_id] = identity

    def named(self, name: str) -> PublicIdentity:
        """The identity of that name; UntrustedPeer where there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise UntrustedPeer(f"{name} is not a node of the fleet") from None
