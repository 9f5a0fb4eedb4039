"""Random Zarr stores, and a judge of what became of them: zarr-python reads the source, each target is read by its own library."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from random import Random

import h5py
import numpy as np
import zarr
from hypothesis import strategies as st

RECORD = np.dtype([("n", "<i4"), ("x", "<f8"), ("word", "S3"), ("text", "<U2")])
DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", ">i4", ">f8", "S1", "S5", "U1", "U4", "V3", "M8[ns]", "M8[10D]", "m8[s]", RECORD, "str", "bytes",
]  # fmt: skip
WORDS = ["", "a", "ä", "日本語", " b ", "in\0side", "end\0", "longer than the others", "\ufeff", "é\n"]
EXTREMES = {
    "b": [True, False],
    "i": [0, 1, -1, 127, -128],
    "u": [0, 1, 255],
    "f": [0.0, -0.0, 1.5, np.nan, np.inf, -np.inf],
    "c": [0, 1 + 2j, complex(np.nan, -np.inf)],
}
NAMES = ["x", "x.npy", "ä b", "0", "c", "data", "g", "h"]

LEAVES = [
    None, True, False, 0, -5, 2**63 - 1, 2**63, 2**64 - 1, 2**70, -(2**63), -(2**63) - 1, 0.5, -0.0, 1e300,
    float("nan"), float("inf"), *WORDS, "\ud800", "NaN", "x" * 70_000,
]  # fmt: skip


def random_json(random: Random, depth: int = 0):
    kind = random.choice(["leaf", "leaf", "list", "numbers", "words", "nested", "object"] if depth < 2 else ["leaf"])
    count = random.randint(0, 3)
    if kind == "numbers":
        return [random.choice([0, -1, 2**63, 2**64 - 1]) for _ in range(count)]
    if kind == "words":
        return [random.choice([*WORDS, "\ud800"]) for _ in range(count)]
    if kind == "nested":
        return [[random.choice([1.5, float("nan")]) for _ in range(count)] for _ in range(2)]
    if kind == "list":
        return [random_json(random, depth + 1) for _ in range(count)]
    if kind == "object":
        return {random.choice(WORDS): random_json(random, depth + 1) for _ in range(count)}
    return random.choice(LEAVES)


def random_attributes(random: Random) -> dict:
    names = [
        "a",
        "unit",
        "ä",
        "a/b",
        "CLASS",
        "NAME",
        "shape",
        "\ud800",
        "n" * 300,
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "DIMENSION_LABELS",
    ]
    return {random.choice(names): random_json(random) for _ in range(random.randint(0, 3))}


def random_array(random: Random) -> dict:
    return {
        "dtype": random.choice(DTYPES),
        "shape": tuple(random.choice([0, 1, 2, 3, 3, 5]) for _ in range(random.randint(0, 3))),
        "chunk": random.choice([1, 2, 7]),
        "shards": random.choice([0, 0, 2]),
        "filled": random.choice([0.0, 0.5, 1.0]),
        "fill": random.random() < 0.5,
        "compressed": random.random() < 0.5,
        "seed": random.randint(0, 1 << 30),
        "attributes": random_attributes(random),
    }


def random_tree(seed: int) -> dict:
    """{path: an array or a group} and the format version."""
    random = Random(seed)
    version = random.choice([2, 3])
    if random.random() < 0.15:
        return {"version": version, "bare": False, "": random_array(random)}
    # "bare": groups that the tree does not name have no metadata
    tree = {"version": version, "bare": random.random() < 0.4, "": {"attributes": random_attributes(random), "implicit": False}}
    for _ in range(random.randint(1, 6)):
        path = "/".join(random.choice(NAMES) for _ in range(random.randint(1, 3)))
        group = {"attributes": random_attributes(random), "implicit": random.random() < 0.3}
        tree[path] = random_array(random) if random.random() < 0.75 else group
    return tree


trees = st.integers(0, 2**32 - 1).map(random_tree)


def write_tree(path: Path, tree: dict) -> dict[str, bool]:
    """{path: is an array} of the store that is written: what a tree says, without what would lie in an array."""
    version = tree["version"]
    found: dict[str, bool] = {}
    hidden = []
    for name in sorted(key for key in tree if isinstance(tree[key], dict)):
        parts = name.split("/") if name else []
        above = ["/".join(parts[:depth]) for depth in range(len(parts))]
        if any(found.get(each, False) for each in above):
            continue
        for each in above:
            if each not in found:  # a group that the tree does not name
                found[each] = False
                hidden += [each] * tree["bare"]
                _save_attributes(zarr.open_group(path / each, mode="a", zarr_format=version), {}, path / each, version)
        spec = tree[name]
        found[name] = "dtype" in spec
        node = (
            write_array(path / name, spec, version) if found[name] else zarr.open_group(path / name, mode="a", zarr_format=version)
        )
        _save_attributes(node, spec["attributes"], path / name, version)
        if not found[name] and name and spec["implicit"]:
            hidden.append(name)
    for name in hidden:
        if any(found[other] for other in found if other.startswith(f"{name}/")):
            for file in ("zarr.json", ".zgroup", ".zattrs"):
                (path / name / file).unlink(missing_ok=True)
    return found


def _save_attributes(node, values: dict, path: Path, version: int) -> None:
    """Past zarr-python, which writes no halves of characters."""
    if not values:
        return
    if version == 2:
        (path / ".zattrs").write_text(json.dumps(values))
        return
    metadata = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**metadata, "attributes": values}))


def write_array(path: Path, spec: dict, version: int):
    shape, kind = spec["shape"], spec["dtype"]
    rng = np.random.default_rng(spec["seed"])
    chunks = tuple(spec["chunk"] for _ in shape)
    dtype = zarr.dtype.VariableLengthBytes() if kind == "bytes" else str if kind == "str" else np.dtype(kind)
    is_number = kind not in ("str", "bytes") and np.dtype(kind).kind in "iufc"
    options: dict = {"fill_value": 1} if spec["fill"] and is_number else {}
    can_shard = version == 3 and shape and kind not in (RECORD, "V3")  # zarr-python writes such shards and cannot read them
    if spec["shards"] and can_shard:
        options["shards"] = tuple(2 * each for each in chunks)
    if not spec["compressed"]:
        options["compressors"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(path, shape=shape, chunks=chunks, dtype=dtype, zarr_format=version, **options)
        rows = round(spec["filled"] * shape[0]) if shape else 1
        if rows and 0 not in shape:
            part = (rows, *shape[1:]) if shape else ()
            array[(slice(0, rows),) if shape else ...] = values_of(kind, part, rng)
    return array


def values_of(kind, shape, rng):
    count = int(np.prod(shape))
    if isinstance(kind, np.dtype):
        out = np.zeros(count, kind)
        for name in kind.names:
            out[name] = values_of(kind[name].str, (count,), rng)
        return out.reshape(shape)
    if kind in ("str", "bytes"):
        found = np.empty(count, object)
        chosen = [WORDS[index] for index in rng.integers(0, len(WORDS), count)]
        found[:] = [word.encode() if kind == "bytes" else word for word in chosen]
        return found.reshape(shape)
    dtype = np.dtype(kind)
    if dtype.kind in EXTREMES:
        found = np.array(EXTREMES[dtype.kind])[rng.integers(0, len(EXTREMES[dtype.kind]), count)].astype(dtype)
    elif dtype.kind == "U":
        found = np.array([WORDS[index][: dtype.itemsize // 4] for index in rng.integers(0, len(WORDS), count)], dtype)
    elif dtype.kind in "SV":
        found = np.frombuffer(rng.integers(0, 3, count * dtype.itemsize, np.uint8).tobytes(), dtype)
    else:
        found = rng.integers(-5, 5, count).astype("i8").view(dtype.newbyteorder("="))
        found[:1] = np.array("NaT", dtype)
    return found.reshape(shape)


def judge(source: Path, nodes: dict[str, bool], target: Path, report) -> int:
    """Assert that each array, group and attribute is equal in the target, or listed. Returns how many arrays were compared."""
    rows = {row.path: row for row in report.rows}
    compared = 0
    for name, is_array in nodes.items():
        path = f"/{name}"
        row = rows[path]
        if row.outcome in ("refused", "failed"):
            assert row.outcome == "refused" and any(words in row.how for words in ALLOWED), row
            continue
        stored = read_zarr(source / name) if is_array else None
        place = "data" if is_array and not name and target.suffix != ".zarr" else name
        judge_attributes(read_attributes(source / name), target, place, is_array, path, rows)
        if stored is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fill = zarr.open_array(source / name, mode="r").fill_value
            judge_values(stored, target, place, path, rows, fill)
            compared += 1
    return compared


ALLOWED = (
    "text that UTF-8 cannot",
    "has its name there already",
    "was not written",
)


ALLOWED_OF_ATTRIBUTES = (
    "HDF5 has no text that is not UTF-8",
    "HDF5 holds 61440 in an attribute",
    "HDF5 keeps this name",
    "it reads back as None",
)


def read_zarr(path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.open_array(path, mode="r")
        found = array[...]
    return found if isinstance(found, np.ndarray) and found.shape else np.asarray(found, array.dtype)  # of a scalar, any type


def read_attributes(path: Path) -> dict:
    for name in ("zarr.json", ".zattrs"):
        if (path / name).exists():
            found = json.loads((path / name).read_text())
            return found.get("attributes", {}) if name == "zarr.json" else found
    return {}


def read_target(target: Path, place: str):
    if target.suffix == ".zarr":
        return read_zarr(target / place)
    if target.suffix == ".h5":
        with h5py.File(target) as file:
            return np.asarray(file[place][()], file[place].dtype)
    return np.load(target / f"{place}.npy")


def judge_values(stored, target, place, path, rows, fill=0):
    row = rows[path]
    if row.outcome == "refused":
        assert any(words in row.how for words in ALLOWED), row
        return
    if stored.dtype.names is not None and target.suffix != ".zarr":
        assert row.outcome == "changed" and "a group of its members" in row.how
        for name in stored.dtype.names:
            judge_values(stored[name], target, f"{place}/{name}", f"{path.rstrip('/')}/{name}", rows)
        return
    kind = stored.dtype.kind
    if kind in "OT" and f"{path.rstrip('/')}/offsets" in rows:  # a text ends in NUL, the padding of fixed-width text
        expected = [each.encode() if isinstance(each, str) else each for each in stored.astype(object).reshape(-1).tolist()]
        offsets, values = (read_target(target, f"{place}/{part}") for part in ("offsets", "values"))
        assert any(text.endswith(b"\0") for text in expected) and values.tobytes() == b"".join(expected)
        np.testing.assert_array_equal(offsets, np.cumsum([0, *map(len, expected)]))
        return
    found = read_target(target, place)
    if target.suffix == ".zarr" or kind in "biufcS":
        assert native(found.dtype) == native(stored.dtype) and found.shape == stored.shape
        if target.suffix == ".h5" and kind in "iufc" and "split" not in row.how:
            with h5py.File(target) as file:
                np.testing.assert_array_equal(file[place].fillvalue, fill)
        if stored.dtype.names is not None or kind in "VOTU":
            assert found.tolist() == stored.tolist() or found.tobytes() == stored.tobytes()
        else:
            np.testing.assert_array_equal(found, stored)
        return
    if kind in "mM":
        assert row.outcome == "changed" and f"{stored.dtype} as int64" in row.how
        np.testing.assert_array_equal(found, stored.astype(stored.dtype.newbyteorder("=")).view("i8"))
    elif kind == "V":
        assert row.outcome == "changed" and "raw bytes" in row.how and found.dtype == np.uint8
        assert found.shape == (*stored.shape, stored.dtype.itemsize) and found.tobytes() == stored.tobytes()
    else:
        assert found.shape == stored.shape
        expected = [each.encode() if isinstance(each, str) else each for each in stored.astype(object).reshape(-1).tolist()]
        assert found.astype(object).reshape(-1).tolist() == expected
        is_kept = target.suffix == ".h5" and kind == "T" and found.dtype == object
        assert is_kept or row.outcome == "changed" or not stored.size, row


def native(dtype):
    return dtype if dtype.kind == "T" else dtype.newbyteorder("=")


def judge_attributes(given, target, place, is_array, path, rows):
    found = target_attributes(target, place, is_array)
    for name, value in given.items():
        row = rows.get(f"{path}@{name}")
        if row is None:
            assert same(found[name], value), (path, name, found[name], value)
        elif row.outcome == "changed":
            if "as JSON text" in row.how:
                assert same(json.loads(found[name]) if isinstance(found[name], str) else found[name], value)
            else:
                is_made_anew = row.how == "made anew" and name in ("DIMENSION_LIST", "REFERENCE_LIST") and is_array
                assert is_made_anew or (row.how == "values that are not finite as text" and name in found), row
        else:
            assert row.outcome == "refused" and any(words in row.how for words in ALLOWED_OF_ATTRIBUTES), row
            assert name not in found or name == "unit"  # the note of a date's
    # What is more than was given is a note that `changed` tells of.
    assert set(found) - set(given) <= {"unit", "DIMENSION_LABELS", "mmapstore_links"}


def target_attributes(target, place, is_array):
    if target.suffix == ".zarr":
        return read_attributes(target / place)
    if target.suffix == ".h5":
        with h5py.File(target) as file:
            item = file[place or "/"]
            return {name: from_h5(item.attrs[name]) for name in item.attrs}
    lines = [json.loads(line) for line in (target / "tree.jsonl").read_text().splitlines()[1:]]
    return next(line["attributes"] for line in lines if line["path"] == f"/{place}")


def from_h5(value):
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray):
        return [each.decode() if isinstance(each, bytes) else each for each in value.tolist()]
    if isinstance(value, (bytes, np.bytes_)):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def same(one, other) -> bool:
    """Equal with their kinds, as JSON has them; not a number equals itself."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
