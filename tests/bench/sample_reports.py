"""Reports as a run would leave them, by hand: with rows that were killed, given up, failed, not run, and wrong."""

from __future__ import annotations

import math

from mmapstore.bench.contract import FAILED, FINISHED, GIVEN_UP, KILLED, NOT_RUN, Epoch, Look, Report, Row

FRAMEWORK = 480_000_000
SMALL, LARGE = 600_000_000, 8_000_000_000
LIMIT = 1_000_000_000
MACHINE = {
    "processor": "AMD EPYC 9R14",
    "cores": 2,
    "memory": 16_530_000_000,
    "system": "Linux",
    "kernel": "6.1.0",
    "control_groups": "version 2",
    "python": "3.11.9",
    "versions": {"numpy": "2.2.1", "tensorflow-cpu": "2.18.0", "keras": "3.8.0", "h5py": "3.14.0", "mmapstore": "0.1.0"},
}
TASKS = [
    {"kind": "next", "form": "npy", "samples": 20_000, "shape": [3, 50, 50], "dtype": "float32", "batch": 32, "seed": 0},
    {"kind": "labelled", "form": "npy", "samples": 1_000_000, "shape": [600], "dtype": "uint8", "batch": 256, "seed": 0},
]
# strategy, forms, private memory per byte of data, private bytes beside, bytes a second, mapped
WAYS = [
    ("array in RAM, fit(x, y)", ["npy"], 3.0, 20e6, 2.4e9, False),
    ("fit(memmap)", ["npy"], 2.0, 25e6, 2.5e9, True),
    ("from_tensor_slices(memmap)", ["npy"], 2.0, 9e6, 2.3e9, True),
    ("from_generator(args=[memmap])", ["npy"], 2.05, 60e6, 0.5e9, True),
    ("from_generator, by sample", ["npy"], 0.0, 31e6, 0.35e9, True),
    (".shuffle(n)", ["npy"], 1.02, 30e6, 0.3e9, True),
    ("timeseries_dataset_from_array", ["npy"], 2.1, 14e6, 0.4e9, True),
    ("from_generator, by batch", ["npy"], 0.0, 12e6, 2.2e9, True),
    ("hand-written Sequence", ["npy"], 0.0, 6e6, 2.6e9, True),
    ("hand-written Sequence, workers=4", ["npy"], 0.0, 29e6, 1.9e9, True),
    ("h5py Sequence", ["h5", "h5-gzip"], 0.0, 8e6, 0.6e9, False),
    ("zarr Sequence", ["zarr", "zarr-zstd"], 0.0, 48e6, 0.5e9, False),
    ("mmapstore to_keras", ["npy", "h5", "h5-gzip", "zarr", "zarr-zstd"], 0.0, 5e6, 2.5e9, True),
    ("mmapstore to_tf", ["npy", "h5", "h5-gzip", "zarr", "zarr-zstd"], 0.0, 9e6, 2.7e9, True),
    ("mmapstore shuffled", ["npy", "h5", "h5-gzip", "zarr", "zarr-zstd"], 0.0, 14e6, 1.6e9, False),
]


def epochs(nbytes: int, rate: float, count: int = 3, right: bool = True) -> list[Epoch]:
    return [Epoch(nbytes / rate * (1.3 if number == 0 else 1 + 0.02 * number), 19_999, nbytes, right) for number in range(count)]


def looks(private: float, nbytes: int, seconds: float, mapped: bool, until: float = 1.0, count: int = 300) -> list[Look]:
    """A rise over the first third, then level with a ripple; RSS has the mapped pages as well."""
    found = []
    for number in range(-10, count):
        part = number / (count - 1)
        grown = private * max(0.0, min(1.0, 3 * part)) * (1 if number % 7 else 0.97)
        base = int(FRAMEWORK * (0.6 + 0.04 * (number + 10))) if number < 0 else FRAMEWORK
        pages = 120e6 + (nbytes * max(0.0, min(1.0, 2 * part)) if mapped else 0)
        found.append(Look(part * seconds * until, int(base + grown), int(pages), int(base + grown + pages)))
    return found


def row(
    name: str, form: str = "npy", *, kind: str = "next", nbytes: int = SMALL, private: float = 6e6, rate: float = 2e9, **more
) -> Row:
    mapped = more.pop("mapped", form == "npy")
    right = more.pop("right", True)
    delivered = 2 * nbytes if kind == "next" else nbytes
    found = Row(
        name, form, kind, FINISHED, data_nbytes=nbytes, predicted=int(private * 1.1), private=int(private), baseline=FRAMEWORK,
        file_backed=int(120e6 + mapped * nbytes), resident=int(600e6 + private + mapped * nbytes), first_batch=0.021,
        epochs=epochs(delivered, rate, right=right), looks=looks(private, nbytes, 3 * delivered / rate, mapped),
        command=f"mmapstore bench --only '{name}' --form {form}",
    )  # fmt: skip
    for field, value in more.items():
        setattr(found, field, value)
    return found


def cut_short(name: str, outcome: str, why: str = "", *, private: float, seconds: float, nbytes: int = LARGE, **more) -> Row:
    """One that did not finish: it had taken `private` when it ended."""
    found = row(name, private=private, nbytes=nbytes, why=why, outcome=outcome, epochs=[], **more)
    found.looks = looks(1.5 * private, nbytes // 4, seconds, True, count=100)[: 10 + 67 // 3 + 1]
    found.looks[-1] = Look(seconds, int(FRAMEWORK + private), found.looks[-1].file_backed, found.looks[-1].resident)
    found.predicted = 2 * nbytes
    return found


def not_run(name: str, why: str, *, predicted: int | None, nbytes: int = SMALL, **more) -> Row:
    return Row(name, more.pop("form", "npy"), "next", NOT_RUN, why=why, data_nbytes=nbytes, predicted=predicted, **more)


def full_report(looked: int = 8) -> Report:
    """Some 30 rows without a limit, `looked` of them with their memory over time, rows under one, a calibration."""
    slow = {"h5-gzip": 0.5, "zarr-zstd": 0.7, "zarr": 0.8, "h5": 0.9, "npy": 1.0}
    rows = [
        row(
            name,
            form,
            private=grows * SMALL + fixed + (7e6 if form in ("h5-gzip", "zarr-zstd") else 0),
            rate=rate * slow[form],
            mapped=mapped,
        )
        for name, forms, grows, fixed, rate, mapped in WAYS
        for form in forms
    ]
    rows.append(
        not_run("fit(list of arrays)", "would not fit: 24.0 GB predicted, 15.9 GB of memory available", predicted=24 * 10**9)
    )
    rows.append(row("a way that pairs wrongly", right=False))
    rows.append(
        cut_short(
            "a way that breaks",
            FAILED,
            "ValueError: Data is expected to be in format `x`, `(x,)` …",
            private=70e6,
            seconds=2,
            nbytes=SMALL,
        )
    )
    for each in rows[looked:]:
        each.looks = []
    limited = [
        cut_short("array in RAM, fit(x, y)", KILLED, private=510e6, seconds=2.1),
        cut_short("fit(memmap)", KILLED, private=515e6, seconds=3.3),
        cut_short("from_generator(args=[memmap])", KILLED, private=508e6, seconds=2.9),
        cut_short("hand-written Sequence, shuffled", GIVEN_UP, "120 s", private=22e6, seconds=120),
        *(
            row(name, nbytes=LARGE, private=private, rate=rate)
            for name, private, rate in (
                ("hand-written Sequence", 25e6, 0.62e9),
                ("mmapstore to_tf", 11e6, 0.59e9),
                ("mmapstore shuffled", 12e6, 0.38e9),
            )
        ),
    ]
    for each in limited:
        each.limit, each.limited_by = LIMIT, "control group"
        each.epochs = each.epochs[:1]
    return Report(
        MACHINE, 0,
        calibration="The instruments saw 446 MB of 500 MB.",
        tasks=TASKS, rows=rows, limited=limited,
    )  # fmt: skip


def small_report(**more) -> Report:
    """Three rows, nothing else."""
    rows = [
        row("fit(memmap)", private=1.2e9),
        row("hand-written Sequence", rate=2.6e9),
        row("mmapstore to_tf", private=9e6, rate=2.0e9),
    ]
    return Report(**{"machine": MACHINE, "seed": 0, "rows": rows, **more})


def empty_report() -> Report:
    return Report({}, 0)


def hostile_report() -> Report:
    """Every text a piece of HTML, that would show if it were not escaped."""
    bad = "<script>alert('x')</script>\"&$x$"
    each = row(bad, bad, kind=bad, why=bad, command=bad)
    ended = cut_short(bad, KILLED, bad, private=5e8, seconds=math.pi, nbytes=SMALL, limit=LIMIT, limited_by=bad)
    return Report(
        {"processor": bad, "versions": {bad: bad}}, 0, bad,
        [{"kind": bad, "form": bad, "samples": 10, "shape": [3], "dtype": "uint8", "batch": bad}],
        [each], [ended],
    )  # fmt: skip
