"""Which replica answers: the one that has the walk open. Imported where Ray is."""

import pickle
import re
from typing import Any
from urllib.parse import parse_qs

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

_SESSION = re.compile(r"/v1/sessions/([a-z0-9-]+)/")


class WalkRouter(ConsistentHashRouter):
    """Brings a request to the replica that holds its walk, and a new walk to a replica with a free place.

    A walk is named by the path of a program's request (the session), or by `?walk=` of a page's socket (a world, or the
    word to watch it). Replicas tell every second what they hold (`Walks.record_routing_stats`). A session that began
    within that second is found by its name, which begins with that of its replica. What nobody holds goes where Ray's
    ring of hashes says: to the same replica from every machine.
    """

    def _routing_key(self, pending_request: Any) -> str | None:
        found: str | None = super()._routing_key(pending_request)
        return found if pending_request is None else walk_of(_scope(pending_request)) or found

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        """Ranks of replicas, the best first; those of one rank are compared by their queues."""
        ring: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
        if pending_request is None or not candidate_replicas:
            return ring
        walk = walk_of(_scope(pending_request))
        if walk is None:
            free = [replica for replica in candidate_replicas if replica.routing_stats.get("free", 1) > 0]
            return [free or candidate_replicas]
        home = walk.partition("-")[0]
        for replica in candidate_replicas:
            if walk in replica.routing_stats.get("holds", ()) or replica.replica_id.unique_id == home:
                return [[replica]]
        return ring[:1]


def walk_of(scope: dict[str, Any]) -> str | None:
    """The walk that an ASGI scope asks for; None for a new one, pages and the like."""
    if session := _SESSION.search(scope["path"]):
        return session.group(1)
    return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("walk", ())), None)


def _scope(pending_request: Any) -> dict[str, Any]:
    """The ASGI scope of a request, which Ray's proxy hands on pickled."""
    request = pending_request.args[0]
    scope: dict[str, Any] = (pickle.loads(request) if isinstance(request, bytes) else request).asgi_scope
    return scope
