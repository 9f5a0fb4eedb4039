"""HDF5 files and Zarr stores with one of everything that people put into them."""

from __future__ import annotations

import h5py
import numpy as np

WORDS = ["ä", "", "a longer one"]
PEOPLE = np.dtype([("name", "S6"), ("position", [("x", ">f4"), ("y", "<i2")]), ("z", "<c8"), ("m", "u1", (2, 2))])


def write_everything(path, track_order=False):
    """Every kind of dataset, attribute and link that stays inside a file."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w", track_order=track_order) as file:
        plain = file.create_group("plain")
        for code in ("i1", "<u2", ">i4", "<i8", "<f2", ">f4", "<f8", "<c8", ">c16"):
            plain[code.strip("<>") + ("be" if code[0] == ">" else "")] = (100 * rng.random((5, 3))).astype(code)
        plain["bool"] = rng.random(7) > 0.5
        plain["bytes"] = np.array([b"ab", b"c", b""], "S4")
        plain["scalar"] = np.float32(1.5)
        plain["text"] = "one text, é"
        plain["none"] = h5py.Empty("f4")
        plain["nothing"] = np.zeros((0, 3), "f4")
        plain["dates"] = np.array(["2020-01-01", "NaT"], "M8[ns]").astype(h5py.opaque_dtype("M8[ns]"))
        plain["opaque"] = np.array([b"\0\1\2", b"\3\4\5"], "V3")
        plain["words"] = np.array(WORDS, object).astype(h5py.string_dtype())
        colours = h5py.enum_dtype({"red": 1, "blue": 7}, "i2")
        plain.create_dataset("colours", data=np.array([1, 7, 1], "i2"), dtype=colours)
        runs = plain.create_dataset("runs", (4,), h5py.vlen_dtype("<i4"))
        for index, length in enumerate((3, 0, 1, 5)):
            runs[index] = np.arange(length)
        people = np.zeros(3, PEOPLE)
        people["name"], people["position"]["x"], people["z"], people["m"] = [b"Ann", b"B", b""], [1, 2, 3], [1j, 2, 3], 7
        plain["people"] = people
        mixed = np.zeros(2, np.dtype([("word", h5py.string_dtype()), ("n", "i4")]))
        mixed["word"], mixed["n"] = WORDS[:2], [4, 5]
        plain["mixed"] = mixed

        stored = file.create_group("stored")
        frames = rng.integers(0, 9, (40, 6, 5), np.uint8)
        stored.create_dataset("gzip", data=frames, chunks=(16, 6, 5), compression="gzip", shuffle=True, fletcher32=True)
        stored.create_dataset("lzf", data=frames, chunks=(7, 4, 5), compression="lzf", maxshape=(None, 6, 5))
        stored.create_dataset("filled", (9, 4), "f4", chunks=(3, 4), fillvalue=-9.0)[3:5] = 1
        stored.create_dataset("unwritten", (9,), "i4", fillvalue=5)

        scales = file.create_group("scales")
        scales["time"], scales["x"] = np.arange(4.0), np.arange(3.0)
        scales["time"].make_scale("time of day")
        scales["x"].make_scale()
        field = scales.create_dataset("field", data=np.ones((4, 3), "f4"))
        field.dims[0].attach_scale(scales["time"])
        field.dims[1].attach_scale(scales["x"])
        field.dims[1].label = "easting"

        links = file.create_group("ways")
        links["again"] = plain["i1"]
        links["soft"] = h5py.SoftLink("/stored/gzip")
        links["dangling"] = h5py.SoftLink("/nowhere/at/all")
        links["up"] = links
        references = links.create_dataset("references", (2, 2), h5py.ref_dtype)
        references[0, 0], references[1, 1] = plain["i1"].ref, links.ref
        regions = links.create_dataset("regions", (1,), h5py.regionref_dtype)
        regions[0] = stored["gzip"].regionref[3:5, 1]

        group = file.create_group("attributes")
        for name, value in {
            "int": np.int16(-3), "big": np.uint64(2**64 - 1), "float": np.float32(0.1), "list": np.arange(4), "square": np.eye(2),
            "text": "ä", "bytes": np.bytes_(b"plain"), "latin": np.bytes_(b"\xe4"), "words": WORDS, "true": True,
            "complex": 1 + 2j, "nan": np.nan, "none": h5py.Empty("i4"), "empty": "", "compound": people[:2],
            "reference": plain["i1"].ref,
        }.items():  # fmt: skip
            group.attrs[name] = value
        group.attrs.create("colour", 7, dtype=colours)
        group.attrs.create("region", regions[0], dtype=h5py.regionref_dtype)
        plain["i1"].attrs["units"] = "m"
        file["kind"] = np.dtype("<f4")
        file["kind"].attrs["why"] = "named"
        file.create_dataset("named", (2,), dtype=file["kind"])
        file.attrs["title"] = "everything"
    return path
