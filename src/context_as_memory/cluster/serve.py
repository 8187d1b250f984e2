"""Walks on several machines: replicas of the explorer's whole server under Ray Serve, over one folder of worlds."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_as_memory.cluster.connect import check_machines, connected, places, share_of
from context_as_memory.errors import UserError
from context_as_memory.server.limits import Limits
from context_as_memory.signals import StopOnSignal

NAME = "cam"
TELLS_S = 1.0  # how often replicas tell what they hold, and are asked whether they live
ENDS_S = 20.0  # for the chunk that is being made
_WAITS = 10_000  # connections to one replica; `Limits` decides how many walk


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """What each replica serves. worlds: the folder that all of them share."""

    worlds: Path
    weights: str = "default"
    prompt: str | None = None
    device: str = "auto"
    limits: Limits = Limits()
    token: str | None = None
    hosts: Sequence[str] = ("*",)
    root_path: str = ""
    threads: int | None = None


class Walks:
    """One replica: a server with a model of its own. Ray Serve calls its methods."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.config = config
        self._app: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        from ray import serve

        from context_as_memory.compute import use_threads
        from context_as_memory.server.app import create_app
        from context_as_memory.server.register import Register
        from context_as_memory.server.store import FolderStore

        config = self.config
        use_threads(config.threads)
        store = FolderStore(config.worlds, config.weights, device=config.device, prompt=config.prompt)
        home = serve.get_replica_context().replica_id.unique_id
        register = Register(config.worlds / "sessions", home, config.limits.idle_s)
        self._app = create_app(store, config.limits, config.token, config.hosts, config.root_path, register)
        return self._app

    def record_routing_stats(self) -> dict[str, Any]:
        """What `WalkRouter` wants to know: the walks that are open here, and how many more may be."""
        state = self._app.state
        open_ones = [one.session for one in tuple(state.hub.broadcasts) if one.session.world_name is not None]
        names = [name for session in open_ones for name in (session.world_name, session.share)]
        free = self.config.limits.sessions - len(state.hub.broadcasts)
        return {"holds": frozenset([*names, *state.programs.names()]), "free": free}


def serve_walks(
    cluster: str,
    config: ReplicaConfig,
    replicas: int | None,
    host: str,
    port: int,
    ready: Callable[[], None],
    end: threading.Event | None = None,
) -> None:
    """Serve until asked to stop (Ctrl-C, SIGTERM): every machine with a replica listens on host:port and brings
    visitors to their walk.

    replicas: servers, each with a model; one for each GPU (without any: each machine) if None. ready: called when all
    of them answer. end: ends it, too, when it is set. `UserError` if they cannot be started.
    """
    end = end or threading.Event()
    with connected(cluster) as ray:
        from ray import serve
        from ray.serve.config import RequestRouterConfig
        from ray.serve.schema import LoggingConfig

        folders = [Path(config.weights)] if Path(config.weights).is_dir() else []
        check_machines(ray, folders, config.worlds)
        if NAME in serve.status().applications:
            raise UserError(
                "this cluster serves walks already; end that command first, or what a killed one left (docs/cluster.md)"
            )
        share = share_of(ray, config.device, config.threads)
        if replicas is None:
            machines = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
            replicas = places(ray, share) if share["num_gpus"] else max(1, machines)
        if replicas > places(ray, share):
            each = f"{share['num_cpus']} CPU and {share['num_gpus']} GPU"
            raise UserError(
                f"the cluster has room for {places(ray, share)} replicas with {each} each, not for {replicas}; choose "
                "other --replicas or --threads, or add machines"
            )
        router: dict[str, Any] = {
            "request_router_class": "context_as_memory.cluster.router.WalkRouter",
            "request_routing_stats_period_s": TELLS_S,
        }
        quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")  # addresses hold tokens
        deployment = serve.deployment(
            name="walks",
            num_replicas=replicas,
            ray_actor_options=share,
            max_ongoing_requests=_WAITS,
            max_constructor_retry_count=1,
            health_check_period_s=TELLS_S,
            graceful_shutdown_timeout_s=ENDS_S,
            logging_config=quiet,
            request_router_config=RequestRouterConfig(**router),
        )(serve.ingress()(Walks))
        serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port}, logging_config=quiet)
        try:
            with StopOnSignal(lambda _: end.set()):
                serve.run(deployment.bind(config), name=NAME, route_prefix="/", logging_config=quiet)
                ready()
                while not end.wait(0.5):  # a handler of signals runs between two waits
                    pass
        except RuntimeError as error:
            told = [one.message for app in serve.status().applications.values() for one in app.deployments.values()]
            raise UserError(f"the cluster cannot serve: {_reason([*told, str(error)])}") from error
        finally:
            serve.shutdown()


def _reason(told: Sequence[str]) -> str:
    """The sentence of a replica's `UserError` if one was told; else the last line, which is the cause."""
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    sentences = [line.partition("UserError: ")[2] for line in lines if "UserError: " in line]
    return (sentences or lines)[-1]
