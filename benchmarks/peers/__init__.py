"""The ways that the suite measures, each in a few lines that a reader can judge. Libraries are imported when a way runs."""

from . import by_hand, frameworks, loaders, ours, stores, torch_loaders
from .contract import ACCESSES, PEERS, Job, Opened, Peer

__all__ = ["ACCESSES", "PEERS", "Job", "Opened", "Peer", "by_hand", "frameworks", "loaders", "ours", "stores", "torch_loaders"]
