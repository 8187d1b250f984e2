"""What a suite is: a list of protocols on some weights, and the report that they fill."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from context_as_memory.data.episode import Episode
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.protocols.scenes import StartView
from context_as_memory.evaluation.suite.result import Case, ClipStore, Report, digest, episode_digest
from context_as_memory.evaluation.suite.system import System


@dataclass(frozen=True)
class Setup:
    """What is measured, on what, and with which networks. starts: pictures to walk from, where no episodes are."""

    system: System
    config: EvaluateConfig
    networks: Sequence[str]
    episodes: Sequence[Episode] = ()
    starts: Sequence[StartView] = ()

    @property
    def lpips(self) -> bool:
        """Whether pictures are compared by LPIPS too."""
        return "lpips" in self.networks

    @property
    def content(self) -> dict[str, str]:
        """Hashes of what is measured on, by name."""
        found = {episode.name: episode_digest(episode) for episode in self.episodes}
        return found | {start.name: digest(start.frame, start.camera.c2w, start.camera.K) for start in self.starts}


@dataclass(frozen=True)
class Suite:
    """cases: the clips to measure; conclude: fills numbers, summary and notes of a report; write: tables and page;
    wanted: the networks that it can use."""

    cases: Callable[[Setup], list[Case]]
    conclude: Callable[[Report, Setup, ClipStore], None]
    write: Callable[[Report, ClipStore, Path], None]
    wanted: Sequence[str] = ("lpips",)
