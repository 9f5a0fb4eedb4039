"""Progress of an operation: a tqdm bar on a terminal or in a notebook, a call of the user's function, or nothing."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Any

from ..plain.errors import InvalidTypeError

_DELAY = 0.2  # before a bar appears: shorter operations show none


def progress_bar(unit: str, total: int | None = None, initial: int = 0, disable: bool = False) -> Any:
    """Return a `tqdm` bar on standard error that is wiped when it is closed.

    `unit` is "B" for bytes, which are shown as kB, MB ..., or a noun such as "objects". Close the bar, or use it in `with`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm asks for ipywidgets in a notebook that lacks the package, and then shows text
        from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that wakes slow bars: it would outlive the operation

    is_bytes = unit == "B"
    words = unit if is_bytes else f" {unit}"
    return Bar(
        total=total,
        initial=initial,
        unit=words,
        unit_scale=is_bytes,
        leave=False,
        dynamic_ncols=True,
        delay=_DELAY,
        disable=disable,
    )


def shows_bar(wanted: Any, call: str = "(done, total)") -> bool:
    """Return True if `progress=wanted` asks for a bar: `True`, or `None` on a terminal or in a notebook with ipywidgets.

    `call` names the arguments of the user's function. Raises InvalidTypeError for anything but None, a bool or a function.
    """
    if wanted is not None and not isinstance(wanted, bool) and not callable(wanted):
        raise InvalidTypeError(
            f"progress={wanted!r} is not understood; expected None (a bar on a terminal), False, or a function of {call}."
        )
    return wanted is True or (wanted is None and (_is_notebook() or (sys.stderr is not None and sys.stderr.isatty())))


def _is_notebook() -> bool:
    """Return True in a notebook that can show widgets; a bar of text would stay in the saved output."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config and importlib.util.find_spec("ipywidgets") is not None


class Progress:
    """Progress in samples.

    Parameters
    ----------
    wanted : the `progress=` argument of the operation: None, a bool, or a function of (samples done, samples in all or None)
    total : samples in all; None where nobody knows. More may come than that
    sample_nbytes : bytes of a sample, for the rate
    done : samples that an earlier run has finished
    """

    def __init__(self, wanted: Any, total: int | None, sample_nbytes: int, done: int) -> None:
        shown = shows_bar(wanted)
        self._call: Callable[[int, int | None], Any] | None = wanted if callable(wanted) else None
        self._total, self._nbytes, self._done = total, max(1, sample_nbytes), done
        self._bar = progress_bar("B", total and total * self._nbytes, done * self._nbytes) if shown else None

    def __call__(self, done: int) -> None:
        if self._call is not None:
            self._call(done, self._total)
        if self._bar is not None:
            of = f" of {self._total}" if self._total and done <= self._total else ""
            self._bar.set_postfix_str(f"{done}{of} samples", refresh=False)
            self._bar.update((done - self._done) * self._nbytes)
            self._done = done

    def close(self) -> None:
        """Wipe the bar, so that the next print begins on a clean line."""
        if self._bar is not None:
            self._bar.close()
