"""What one run of the benchmark found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from bench.send.peer_run import PeerTurn
from bench.send.sender_alone import Turn
from bench.send.whole_path import Path


@dataclass(frozen=True, slots=True)
class SmallCampaign:
    """Seconds from queued to sent of a campaign of 1,000 leads: alone, and behind two of so many leads."""

    alone_seconds: float
    behind_seconds: float
    large: int


@dataclass(slots=True)
class Findings:
    """Everything measured.

    Attributes:
        sender: by the newsletter's size in bytes, pairs of turns: the sender's and the bare loop's.
        paths: campaigns of growing size, each with the largest resident size (MB) of each kind of process.
        import_mb: resident size of a process that only imports the definitions.
    """

    scale: str
    cores: int
    sender: dict[int, list[tuple[Turn, Turn]]] = field(default_factory=dict)
    paths: list[tuple[Path, dict[str, float]]] = field(default_factory=list)
    import_mb: float = 0.0
    small: SmallCampaign | None = None
    peer: PeerTurn | None = None
    load_average: float = 0.0

    def ratio(self, html_bytes: int) -> float:
        """The sender's rate over the bare loop's, the median of the pairs."""
        return statistics.median(
            ours.recipients_per_second / bare.recipients_per_second for ours, bare in self.sender[html_bytes]
        )

    def processor_microseconds(self, html_bytes: int) -> tuple[float, float]:
        """Processor time a recipient of the sender and of the bare loop, medians."""
        return (
            statistics.median(ours.processor_microseconds for ours, _ in self.sender[html_bytes]),
            statistics.median(bare.processor_microseconds for _, bare in self.sender[html_bytes]),
        )

    def sender_rate(self, html_bytes: int = 2_000) -> float:
        """Recipients a second of our sender alone, the median."""
        return statistics.median(ours.recipients_per_second for ours, _ in self.sender[html_bytes])

    def path_factor(self, path: Path) -> float:
        """The whole path's time over the sender's own time for as many recipients."""
        return path.total_seconds / (path.leads / self.sender_rate())
