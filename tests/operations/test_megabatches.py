"""Pickled, joblib and .npz megabatches: joined field by field, in order, the same however they are read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_results import manifest_of
from private_memory import measured, needs_counts

import mmapstore as mm
from mmapstore.operations.flow import journal
from mmapstore.operations.ingest import plan
from mmapstore.operations.ingest.contract import Position
from mmapstore.operations.ingest.megabatches import columns, megabatches
from mmapstore.plain import memory_budget
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MemoryBudgetError, NotFoundError, SourceWarning
from mmapstore.plain.manifest import DIRECTORY_MANIFEST, Manifest

TEXTS = ["a", "", "two words", "größer", "日本", "x" * 40]


def batch(samples: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "images": random.integers(0, 255, (samples, 3, 4, 5)).astype(np.uint8),
        "labels": random.integers(0, 10, samples).tolist(),
        "texts": [TEXTS[number] for number in random.integers(0, len(TEXTS), samples)],
    }


def as_npz(path: Path, values: Any) -> Path:
    np.savez_compressed(path, **values)
    return path


def as_pickle(protocol: int) -> Callable[[Path, Any], Path]:
    def save(path: Path, values: Any) -> Path:
        path = path.with_suffix(".pkl")
        path.write_bytes(pickle.dumps(values, protocol))
        return path

    return save


def as_joblib(compress: Any) -> Callable[[Path, Any], Path]:
    def save(path: Path, values: Any) -> Path:
        joblib = pytest.importorskip("joblib")
        joblib.dump(values, path.with_suffix(".joblib"), compress=compress)
        return path.with_suffix(".joblib")

    return save


def as_gzip(path: Path, values: Any) -> Path:
    import gzip

    path = path.with_suffix(".pkl.gz")
    path.write_bytes(gzip.compress(pickle.dumps(values)))
    return path


def as_joblib_called_pkl(path: Path, values: Any) -> Path:
    return as_joblib(0)(path, values).rename(path.with_suffix(".pkl"))


FORMS = {
    "npz": as_npz,
    **{f"pickle {protocol}": as_pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "pickle, gzip": as_gzip,
    "joblib": as_joblib(0),
    "joblib, zlib": as_joblib(3),
    "joblib, lzma": as_joblib(("lzma", 1)),
    "joblib called .pkl": as_joblib_called_pkl,
}


def text_of(row: np.ndarray[Any, Any]) -> str:
    return row.tobytes().rstrip(b"\0").decode("utf-8")


def notes_of(store: str) -> dict[str, Any]:
    where = os.path.join(store, DIRECTORY_MANIFEST)
    return {name: entry.notes for name, entry in Manifest.from_json(Path(where).read_text(), where).fields.items()}


def assert_holds(store: str, batches: Sequence[dict[str, Any]]) -> None:
    ds = mm.open(store)
    assert ds.episodes.tolist() == np.cumsum([0, *(len(one["labels"]) for one in batches)]).tolist()
    np.testing.assert_array_equal(ds["images"][:], np.concatenate([one["images"] for one in batches]))
    np.testing.assert_array_equal(ds["labels"][:], np.concatenate([one["labels"] for one in batches]))
    assert [text_of(row) for row in ds["texts"][:]] == [text for one in batches for text in one["texts"]]
    assert ds["texts"].dtype == np.uint8
    width = max(len(text.encode()) for one in batches for text in one["texts"])
    assert ds["texts"].shape[1] == width
    assert notes_of(store)["texts"] == {"encoding": "utf-8", "width": width, "padding": 0}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file(tmp_path: Path, form: str) -> None:
    batches = [batch(samples, seed) for seed, samples in enumerate((7, 1, 12, 30))]
    for number, one in enumerate(batches):
        FORMS[form](tmp_path / f"b{number + 8}.npz", one)
    assert_holds(mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True), tmp_path / "out"), batches)


@pytest.mark.parametrize(("form", "out"), [("npz", "out"), ("pickle 5", "out.h5"), ("npz", "out.zarr")])
def test_any_number_of_workers_gives_the_same_in_every_target(tmp_path: Path, form: str, out: str) -> None:
    batches = [batch(samples, seed) for seed, samples in enumerate((5, 9, 2, 14, 3))]
    paths = [FORMS[form](tmp_path / f"{number}.npz", one) for number, one in enumerate(batches)]
    found = []
    for workers in (1, 2, 5):
        source = mm.Megabatches(paths, allow_pickle=True, workers=workers)
        store = mm.ingest(source, tmp_path / f"{workers}{out}", max_memory="1GB")
        ds = mm.open(store) if out == "out" else mm.open({name: f"{store}::/{name}" for name in batches[0]})
        found.append({name: ds[name][:] for name in batches[0]})
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_array_equal(other[name], values)
            assert other[name].dtype == values.dtype
    np.testing.assert_array_equal(found[0]["images"], np.concatenate([one["images"] for one in batches]))


def test_lists_of_samples(tmp_path: Path) -> None:
    whole = batch(9)
    samples = [
        {"images": image, "labels": label, "texts": text}
        for image, label, text in zip(whole["images"], whole["labels"], whole["texts"], strict=True)
    ]
    as_pickle(5)(tmp_path / "list.npz", samples)
    as_pickle(5)(tmp_path / "tuple.npz", tuple(samples))
    assert_holds(mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True), tmp_path / "out"), [whole, whole])


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """As CIFAR-10 is distributed: keys and texts are bytes, arrays come from a module that NumPy has renamed."""
    array = np.arange(12, dtype=np.uint8).reshape(2, 6)
    inner = pickle.dumps(array, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")[2:-1]
    head = b"\x80\x02}(U\x0bbatch_labelU\x15training batch 1 of 5U\x06labels](K\x03K\x07eU\x09filenames](U\x05a.pngU\x06bb.pnge"
    (tmp_path / "data_batch_1.pkl").write_bytes(head + b"U\x04data" + inner + b"u.")
    with pytest.raises(InvalidTypeError, match=r"'batch_label' holds one bytes for all samples.*fields= \(--fields\)"):
        mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True), tmp_path / "out")
    source = mm.Megabatches(tmp_path, allow_pickle=True, fields={"image": "data", "label": "labels", "file": "filenames"})
    ds = mm.open(mm.ingest(source, tmp_path / "out"))
    assert list(ds.fields) == ["image", "label", "file"]
    np.testing.assert_array_equal(ds["image"][:], array)
    assert ds["label"][:].tolist() == [3, 7] and [text_of(row) for row in ds["file"][:]] == ["a.png", "bb.png"]
    assert notes_of(str(tmp_path / "out"))["file"]["encoding"] is None


def test_labels_that_are_texts_become_classes(tmp_path: Path) -> None:
    for number, labels in enumerate([["dog", "cat", "dog"], ["zebra", "ant"], ["Käfer"]]):
        fields = {"x": np.zeros((len(labels), 2)), "fine_labels": np.array(labels), "y": np.array(labels)}
        as_npz(tmp_path / f"{number}.npz", fields)
    with pytest.warns(SourceWarning, match=r"texts of the field 'y' are written as text.*classes=\['y'\] \(--classes y\)"):
        ds = mm.open(mm.ingest(mm.Megabatches(tmp_path, classes=["fine_labels"]), tmp_path / "out"))
    assert text_of(ds["y"][0]) == "dog"  # a name alone makes no classes of texts
    classes = ["Käfer", "ant", "cat", "dog", "zebra"]
    assert notes_of(str(tmp_path / "out"))["fine_labels"] == {"classes": classes}
    assert [classes[n] for n in ds["fine_labels"][:]] == ["dog", "cat", "dog", "zebra", "ant", "Käfer"]
    assert ds["fine_labels"].dtype == np.int64


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        ([1, 2, 3], "int64", ()),
        ([1.5, 2, 3], "float64", ()),
        ([True, False, True], "bool", ()),
        ([[1, 2], [3, 4], [5, 6]], "int64", (2,)),
        ([np.float32([1, 2])] * 3, "float32", (2,)),
        (np.array([np.ones((2, 3), "u2"), np.zeros((2, 3), "u2"), None], dtype=object)[:2], "uint16", (2, 3)),
        (np.arange(3, dtype=">i2"), "int16", ()),
        (np.asfortranarray(np.arange(12, dtype="f4").reshape(3, 4)), "float32", (4,)),
        (np.arange(24, dtype="f4").reshape(6, 4)[::2, ::-1], "float32", (4,)),
    ],
)
def test_values_become_arrays(tmp_path: Path, values: Any, dtype: str, shape: tuple[int, ...]) -> None:
    path = as_pickle(5)(tmp_path / "a.npz", {"x": values})
    ds = mm.open(mm.ingest(mm.Megabatches(path, allow_pickle=True), tmp_path / "out", layout=None))
    assert (ds["x"].dtype, ds["x"].shape) == (np.dtype(dtype), (len(values), *shape))
    np.testing.assert_array_equal(ds["x"][:], np.stack([np.asarray(each) for each in values]))


def test_layouts_of_fields(tmp_path: Path) -> None:
    images = np.arange(5 * 4 * 6 * 3, dtype=np.uint8).reshape(5, 4, 6, 3)
    path = as_npz(tmp_path / "a.npz", {"images": images, "masks": images[..., 0], "labels": np.arange(5)})
    for number, layout in enumerate(["NHWC", {"images": "NHWC"}]):
        ds = mm.open(mm.ingest(mm.Megabatches(path, layout=layout), tmp_path / f"out{number}"))
        np.testing.assert_array_equal(ds["images"][:], images.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(ds["masks"][:], images[..., 0])
    for layout, said in [
        ("NCDHW", "fits no field"),
        ({"image": "NHWC"}, "fits no field: the files hold images samples of shape"),
        ({"images": "HWCN"}, "expected N, the samples, first"),
        ({"images": "NTHW"}, "no T: each file is an episode"),
    ]:
        with pytest.raises(InvalidValueError, match=said):
            mm.ingest(mm.Megabatches(path, layout=layout), tmp_path / "no")


def test_one_field_becomes_one_array(tmp_path: Path) -> None:
    path = as_npz(tmp_path / "a.npz", batch(6))
    out = mm.ingest(mm.Megabatches(path, fields=["images"]), tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(out), batch(6)["images"])
    assert manifest_of(out).source == str(path)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_width_that_is_given_holds_and_a_longer_text_is_refused(tmp_path: Path) -> None:
    for number, texts in enumerate([["abc", "d"], ["größer", "e"]]):
        as_npz(tmp_path / f"{number}.npz", {"texts": np.array(texts)})
    ds = mm.open(mm.ingest(mm.Megabatches(tmp_path, text_width=20), tmp_path / "out"))
    assert ds["texts"].shape == (4, 20) and [text_of(row) for row in ds["texts"][:]] == ["abc", "d", "größer", "e"]
    with pytest.raises(
        InvalidValueError, match=r"1\.npz: the field 'texts' holds a text of 8 bytes, the longest of all; text_width=7"
    ):
        mm.ingest(mm.Megabatches(tmp_path, text_width=7), tmp_path / "no")


@pytest.mark.parametrize("tokenize", [None, lambda text: list(text.encode())])
def test_a_long_text_that_would_pad_all_others_is_refused_with_numbers(tmp_path: Path, tokenize: Any, monkeypatch: Any) -> None:
    """10,000 short texts and one of 1 MB would take 10 GB."""
    monkeypatch.setattr(memory_budget.refuse_padding, "__defaults__", (100_000,))
    with (tmp_path / "0.pkl").open("wb") as file:
        pickle.dump({"texts": ["abc"] * 400}, file)
    with (tmp_path / "1.pkl").open("wb") as file:
        pickle.dump({"texts": ["x" * 2000, "abc"]}, file)
    refusal = r"'texts' holds 402 texts of \S+ kB in all, but the longest has \S+ kB: padded .*1\.pkl.*give text_width=2000"
    for dry_run in (True, False):
        with pytest.raises(InvalidValueError, match=refusal):
            source = mm.Megabatches(tmp_path, allow_pickle=True, tokenize=tokenize)
            mm.ingest(source, tmp_path / "out", dry_run=dry_run)
    source = mm.Megabatches(tmp_path, allow_pickle=True, tokenize=tokenize, text_width=2000)
    assert mm.open(mm.ingest(source, tmp_path / "out"))["texts"].shape == (402, 2000)
    monkeypatch.setattr(columns, "_MOST_PADDED_NBYTES", 1000)
    with (tmp_path / "2.pkl").open("wb") as file:
        pickle.dump({"texts": ["x" * 2000] + ["abc"] * 400}, file)
    with pytest.raises(InvalidValueError, match=r"2\.pkl: the field 'texts' holds 401 texts .* Shorten the text of sample 0"):
        mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True, text_width=2000), tmp_path / "no")


def test_empty_texts_have_a_width(tmp_path: Path) -> None:
    path = as_pickle(5)(tmp_path / "a.npz", {"texts": ["", ""]})
    assert mm.open(mm.ingest(mm.Megabatches(path, allow_pickle=True), tmp_path / "out"))["texts"][:].tolist() == [[0], [0]]


def test_tokens_by_a_function(tmp_path: Path) -> None:
    for number, texts in enumerate([["ab", ""], ["größer", "c"]]):
        as_npz(tmp_path / f"{number}.npz", {"texts": np.array(texts), "labels": np.array(["x", "y"])})
    source = mm.Megabatches(tmp_path, tokenize=lambda text: [ord(letter) for letter in text], classes=["labels"])
    ds = mm.open(mm.ingest(source, tmp_path / "out"))
    assert ds["texts"].dtype == np.int32 and ds["texts"].shape == (4, 6)
    assert ["".join(map(chr, row[row > 0])) for row in ds["texts"][:]] == ["ab", "", "größer", "c"]
    assert ds["labels"][:].tolist() == [0, 1, 0, 1]
    assert notes_of(str(tmp_path / "out"))["texts"] == {"tokens": 6, "padding": 0}
    wide = mm.open(
        mm.ingest(mm.Megabatches(tmp_path, tokenize=lambda text: np.full(len(text), -(2**40)), fields=["texts"]), tmp_path / "wide")
    )
    assert wide["texts"].dtype == np.int64 and wide["texts"][3].tolist() == [-(2**40), 0, 0, 0, 0, 0]
    with pytest.raises(InvalidValueError, match="holds a text of 6 tokens, the longest of all; text_width=5"):
        mm.ingest(mm.Megabatches(tmp_path, tokenize=lambda text: [1] * len(text), text_width=5, fields=["texts"]), tmp_path / "no")


def test_another_tokenizer_is_another_source(tmp_path: Path) -> None:
    """A call that goes on with an interrupted one has its tokenizer in common with it, whatever the order of files."""
    for number, texts in enumerate((["ab", "c"], ["de"])):
        np.savez(tmp_path / f"{number}.npz", text=np.array(texts))
    codes, others = (lambda text: [ord(letter) for letter in text]), (lambda text: [ord(letter) + 1 for letter in text])
    marks = [mm.Megabatches(tmp_path, tokenize=tokenize).fingerprint for tokenize in (codes, codes, others)]
    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize(
    ("tokenize", "kind", "said"),
    [
        ("split", InvalidTypeError, "is not a function"),
        (lambda text: text.split(), InvalidTypeError, r"tokenize= gave .* for the text of sample 0; expected a sequence of ints"),
        (lambda text: 3, InvalidTypeError, "expected a sequence of ints"),
        (lambda text: [1.5], InvalidTypeError, "expected a sequence of ints"),
    ],
)
def test_functions_that_give_no_tokens(tmp_path: Path, tokenize: Any, kind: type[Exception], said: str) -> None:
    path = as_npz(tmp_path / "a.npz", {"texts": np.array(["ab", "c"])})
    with pytest.raises(kind, match=said):
        mm.ingest(mm.Megabatches(path, tokenize=tokenize), tmp_path / "out")


def test_a_function_that_gives_other_tokens_the_second_time(tmp_path: Path) -> None:
    path = as_npz(tmp_path / "a.npz", {"texts": np.array(["ab", "c"])})
    calls = iter(range(100))
    with pytest.raises(InvalidValueError, match="has to give the same tokens"):
        mm.ingest(mm.Megabatches(path, tokenize=lambda text: [1] * (1 + next(calls))), tmp_path / "out")


# --- files that do not go together --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"x": np.zeros((2, 3))}, {"y": np.zeros((2, 3))}, r"b\.npz has the fields y; .*a\.npz x"),
        (
            {"x": np.zeros((2, 3))},
            {"x": np.zeros((2, 4))},
            r"b\.npz: the field 'x' holds samples of shape \(4,\) float64, in .*a\.npz ",
        ),
        ({"x": np.zeros((2, 3))}, {"x": np.zeros((2, 3), "f4")}, r"holds samples of shape \(3,\) float32, in .* \(3,\) float64"),
        ({"x": np.zeros(2)}, {"x": np.array(["a", "b"])}, r"the field 'x' holds texts, in .*a\.npz samples of shape \(\) float64"),
        (
            {"x": np.zeros(2)},
            {"x": np.zeros(2), "y": np.zeros(3)},
            r"b\.npz holds fields of different lengths: x 2, y 3.*--fields x,y",
        ),
        ({"x": np.zeros(2)}, {"x": np.zeros(2, "M8[s]")}, r"b\.npz: the field 'x' holds datetime64\[s\]; expected numbers"),
        ({"x": np.zeros(2)}, {"x": np.zeros(2, "c8")}, r"holds complex64; expected numbers"),
        ({"x": np.zeros(2)}, {"x": np.float32(3)}, r"'x' holds one ndarray for all samples"),
    ],
)
def test_files_that_differ_are_named_with_field_and_both(tmp_path: Path, first: Any, second: Any, said: str) -> None:
    as_npz(tmp_path / "a.npz", first)
    as_npz(tmp_path / "b.npz", second)
    for skip_broken in (False, True):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=said):
            mm.ingest(mm.Megabatches(tmp_path, skip_broken=skip_broken), tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"x": [[1, 2], [3]]}, r"'x' holds samples of different shapes: \(2,\) in sample 0, \(1,\) in sample 1"),
        ({"x": [np.zeros(2), np.zeros((2, 2))]}, r"different shapes: \(2,\) in sample 0, \(2, 2\) in sample 1"),
        ({"x": ["a", 3]}, "holds texts, but sample 1 is a int"),
        ({"x": [None, 1]}, "holds objects such as None"),
        ({"x": ["a\0"]}, "the text of sample 0 ends with a zero byte"),
        ({"x": ["\ud800"]}, "sample 0 cannot be written as UTF-8"),
        ({"x": [[["a"]], [["b"]]]}, "expected numbers"),
        ({3: [1]}, "has a field called 3; expected text"),
        ([{"x": 1}, {"y": 1}], "sample 1 has the fields y, sample 0 x"),
        ([1, 2], "holds a list of int; expected a megabatch. Save a dict"),
        ([], "holds a list of nothing"),
        ("text", "holds a str; expected a megabatch"),
        (np.zeros(3), "holds a ndarray; expected a megabatch"),
    ],
)
def test_what_is_no_megabatch(tmp_path: Path, value: Any, said: str) -> None:
    path = as_pickle(5)(tmp_path / "a.npz", value)
    with pytest.raises((InvalidValueError, InvalidTypeError), match=rf"a\.pkl.*{said}"):
        mm.ingest(mm.Megabatches(path, allow_pickle=True), tmp_path / "out")


def test_arguments_that_cannot_be_meant(tmp_path: Path) -> None:
    path = as_npz(tmp_path / "a.npz", batch(2))
    for options, kind, said in [
        ({"fields": "images"}, InvalidTypeError, "expected a list of names"),
        ({"fields": []}, InvalidValueError, "names no field"),
        ({"classes": "labels"}, InvalidTypeError, "expected a list of names of fields"),
        ({"workers": 0}, InvalidValueError, "workers=0 is too small; expected 1 or more"),
        ({"workers": 1.5}, InvalidTypeError, "not a whole number"),
        ({"text_width": -1}, InvalidValueError, "text_width=-1 is too small"),
    ]:
        with pytest.raises(kind, match=said):
            mm.Megabatches(path, **options)  # type: ignore[arg-type]
    for options, said in [
        ({"fields": ["image"]}, "has no field 'image'; it has images, labels, texts"),
        ({"classes": ["label"]}, "names 'label', which is no field: the files hold images .*, labels .*, texts"),
        ({"classes": ["labels"]}, "'labels' holds int64 numbers, not names of classes"),
    ]:
        with pytest.raises(InvalidValueError, match=said):
            mm.ingest(mm.Megabatches(path, **options), tmp_path / "out")  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("")
    for source, kind, said in [
        (tmp_path / "empty", NotFoundError, "holds no file that ends with .pkl"),
        (tmp_path / "no.npz", NotFoundError, "does not exist"),
        (str(tmp_path / "*.joblib"), NotFoundError, "No file matches"),
        (tmp_path / "a.txt", InvalidValueError, "no megabatch by its name"),
        ([], InvalidTypeError, "Megabatches are files"),
        ({"x": 1}, InvalidTypeError, "Megabatches are files"),
    ]:
        with pytest.raises(kind, match=said):
            mm.Megabatches(source)  # type: ignore[arg-type]


# --- positions, interruptions, memory -----------------------------------------------------------------------------------


def test_the_same_from_any_sample_on_in_pieces_of_any_size(tmp_path: Path) -> None:
    batches = [batch(samples, seed) for seed, samples in enumerate((3, 1, 5))]
    for number, one in enumerate(batches):
        as_npz(tmp_path / f"{number}.npz", one)
    (tmp_path / "0b.npz").write_bytes(b"broken")
    (tmp_path / "9.npz").write_bytes(b"broken")
    source = mm.Megabatches(tmp_path, skip_broken=True)
    labels = np.concatenate([one["labels"] for one in batches])
    starts, broken = [0, 3, 4], [str(tmp_path / "0b.npz"), str(tmp_path / "9.npz")]
    for at_most in (1, 2, 100):
        for sample in range(10):
            for told in (0, 1) if sample == 3 else (0,) if sample < 3 else (1, 2) if sample == 9 else (1,):
                pieces = list(source.pieces(Position(sample, [s for s in starts if s <= sample], broken[:told]), at_most))
                found = [label for piece in pieces for label in piece.fields["labels"].tolist()]
                assert found == labels[sample:].tolist()
                assert all(len({len(values) for values in piece.fields.values()}) == 1 for piece in pieces)
                assert [name for piece in pieces for name in piece.skipped] == broken[told:], (sample, told)
                begun, at = [], sample
                for piece in pieces:
                    begun += [at + start for start in piece.starts]
                    at += len(piece.fields["labels"])
                assert begun == [start for start in starts if start >= sample]


def test_interrupted_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [batch(samples, seed) for seed, samples in enumerate((20, 30, 10, 25))]
    for number, one in enumerate(batches):
        as_pickle(5)(tmp_path / f"{number}.npz", one)
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 1000)
    out = tmp_path / "out"
    for stop in (15, 33, 70):

        def stopping(done: int, total: int | None, stop: int = stop) -> None:
            if done > stop:
                raise RuntimeError("stopped")

        with pytest.raises(RuntimeError, match="stopped"):
            mm.ingest(mm.Megabatches(str(tmp_path / "*.pkl"), allow_pickle=True), out, progress=stopping)
    seen: list[int] = []
    mm.ingest(mm.Megabatches(str(tmp_path / "*.pkl"), allow_pickle=True), out, progress=lambda done, total: seen.append(done))
    assert seen[0] > 50
    assert_holds(str(out), batches)


def test_files_larger_than_the_memory_allowed_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        (tmp_path / f"{number}.pkl").write_bytes(b"never loaded" * 1_000_000 * (number + 1))
    monkeypatch.setattr(megabatches, "read_columns", lambda *_: pytest.fail("a file was loaded"))
    with pytest.raises(MemoryBudgetError, match=r"1 file being loaded whole, the largest .*1\.pkl of 24\.0 MB") as caught:
        mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True), tmp_path / "out", max_memory="20MB")
    assert "over max_memory=20.0 MB. Each file is loaded whole" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_fewer_workers_where_memory_is_short(tmp_path: Path) -> None:
    for number in range(4):
        as_pickle(5)(tmp_path / f"{number}.npz", {"x": np.zeros((10, 1_000_000), np.uint8)})
    source = mm.Megabatches(tmp_path, allow_pickle=True)
    source.look(1_000_000_000)
    wide = source._workers
    source.look(45_000_000)
    assert source._workers == 1
    assert sum(source.memory(1).values()) <= 45_000_000
    assert wide >= source._workers
    fixed = mm.Megabatches(tmp_path, allow_pickle=True, workers=4)
    with pytest.raises(MemoryBudgetError, match="fewer workers="):
        fixed.look(45_000_000)


MEASURED = """
    import numpy as np
    import mmapstore as mm
    from mmapstore.operations.ingest.plan import Options, write_plan
    from mmapstore.operations.flow.target import Target

    folder, out = sys.argv[1], sys.argv[2]
    # Once, small: libraries are loaded before anything is counted.
    np.savez(out + "warm.npz", images=np.zeros((3, 3, 4, 4), "u1"), texts=["a"] * 3)
    mm.ingest(mm.Megabatches(out + "warm.npz"), out + "warm")
    with Rise() as rise:
        source = mm.Megabatches(folder, allow_pickle=True)
        mm.ingest(source, out, max_memory="700MB")
    predicted = write_plan(source, Target.of(out, True), Options(), 700_000_000).memory().total
    print(json.dumps({"measured": rise.nbytes, "predicted": predicted}))
"""


@pytest.mark.slow
@needs_counts
@pytest.mark.parametrize("form", ["npz", "pickle 0", "pickle 2", "pickle 5", "joblib, zlib", "samples"])
def test_measured_is_at_most_predicted(tmp_path: Path, form: str) -> None:
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        values: Any = {
            "images": random.integers(0, 255, (3000, 3, 32, 32)).astype(np.uint8),
            "texts": ["word " * n for n in random.integers(1, 40, 3000).tolist()],
            "rows": random.integers(0, 2**40, (3000, 20)).tolist(),
        }
        if form == "samples":
            values = [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
        FORMS.get(form, as_pickle(4))(tmp_path / "in" / f"{number}.npz", values)
    found = measured(MEASURED, tmp_path / "in", tmp_path / "out")
    assert found["measured"] <= found["predicted"] <= 700_000_000, found
