"""Train Keras from arrays on disk that do not fit in memory, in a memory bound that is stated beforehand.

    import mmapstore as mm

    train, val, test = mm.open("frames.npy").split(0.6, 0.2, 0.2)
    b = train.batches(32, target=mm.NextFrame(), shuffle=True)
    model.fit(b.to_keras(), shuffle=False)

Importing this loads nothing: each name brings in what it needs when it is first used, NumPy first of all, and frameworks and
format libraries last.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters.backup import BackupAndRestore
    from .adapters.control_file import ControlFile
    from .batches.batches import Batches
    from .batches.dataset import Dataset
    from .batches.mix import mix
    from .batches.opening import open_dataset as open
    from .operations.convert import convert
    from .operations.ingest import ingest
    from .operations.ingest.images.annotated import AnnotatedImages
    from .operations.ingest.images.images import Images
    from .operations.ingest.megabatches.megabatches import Megabatches
    from .operations.ingest.video import Videos
    from .operations.verify import verify
    from .plain.errors import MmapstoreError
    from .plain.windows import NextFrame, Window

__version__ = "0.1.0"

__all__ = [
    "AnnotatedImages",
    "BackupAndRestore",
    "Batches",
    "ControlFile",
    "Dataset",
    "Images",
    "Megabatches",
    "MmapstoreError",
    "NextFrame",
    "Videos",
    "Window",
    "__version__",
    "convert",
    "ingest",
    "mix",
    "open",
    "verify",
]

# Public name: (module that has it, its name there).
_PLACES = {
    "AnnotatedImages": (".operations.ingest.images.annotated", "AnnotatedImages"),
    "BackupAndRestore": (".adapters.backup", "BackupAndRestore"),
    "Batches": (".batches.batches", "Batches"),
    "ControlFile": (".adapters.control_file", "ControlFile"),
    "Dataset": (".batches.dataset", "Dataset"),
    "Images": (".operations.ingest.images.images", "Images"),
    "Megabatches": (".operations.ingest.megabatches.megabatches", "Megabatches"),
    "MmapstoreError": (".plain.errors", "MmapstoreError"),
    "NextFrame": (".plain.windows", "NextFrame"),
    "Videos": (".operations.ingest.video", "Videos"),
    "Window": (".plain.windows", "Window"),
    "convert": (".operations.convert", "convert"),
    "ingest": (".operations.ingest", "ingest"),
    "mix": (".batches.mix", "mix"),
    "open": (".batches.opening", "open_dataset"),
    "verify": (".operations.verify", "verify"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, its_name = _PLACES[name]
    found = globals()[name] = getattr(import_module(module, __name__), its_name)
    return found


def __dir__() -> list[str]:
    return __all__
