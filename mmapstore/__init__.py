"""Train Keras from arrays on disk that do not fit in memory, in a memory bound that is stated beforehand.

    import mmapstore as mm

    train, val, test = mm.open("frames.npy").split(0.6, 0.2, 0.2)
    b = train.batches(32, target=mm.NextFrame(), shuffle=True)
    model.fit(b.to_keras(), shuffle=False)

Importing this loads NumPy and nothing else: frameworks and format libraries come in when they are used.
"""

from typing import TYPE_CHECKING, Any

from .batches.batches import Batches
from .batches.dataset import Dataset
from .batches.opening import open_dataset as open
from .plain.errors import MmapstoreError
from .plain.windows import NextFrame, Window

if TYPE_CHECKING:
    from .operations.ingest import ingest

__version__ = "0.1.0"

__all__ = ["Batches", "Dataset", "MmapstoreError", "NextFrame", "Window", "__version__", "ingest", "open"]


def __getattr__(name: str) -> Any:
    # Operations bring thread pools, logging and e-mail parsing (through importlib.metadata) along: not for everyone.
    if name == "ingest":
        from .operations.ingest import ingest

        return ingest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
