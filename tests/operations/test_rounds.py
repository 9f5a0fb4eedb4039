"""Augmented rounds: what they hold, against the augmenting function called here; when they are prepared, kept and read."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from typing import ClassVar

import augmenting
import numpy as np
import pytest

import mmapstore as mm
from mmapstore.files.exclusive_lock import exclusive_lock
from mmapstore.formats import npy_file
from mmapstore.operations.rounds import preparation, processes
from mmapstore.operations.rounds import source as round_order
from mmapstore.operations.rounds.source import Augmentation, _generator
from mmapstore.plain.errors import (
    AugmentationWarning,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    LabelWarning,
    LockedFileError,
    MemoryBudgetError,
    MmapstoreError,
    StateMismatchError,
    TransformError,
    WriteError,
)

CATS, DOGS = 30, 4


class Here:
    """In place of a process: does the work here, when it is begun, or when somebody waits for it."""

    begun: ClassVar[list[int]] = []
    late = False

    def __init__(self, work, script, **given):
        self.work, self.given, self.error = work, given, None
        self.begun.append(given["number"])
        self.done = False
        if not self.late:
            self.do()

    def do(self):
        if not self.done:
            self.done = True
            try:
                self.work(self.given)
            except MmapstoreError as error:
                self.error = error

    def result(self):
        self.do()
        if self.error is not None:
            raise self.error

    @property
    def is_running(self):
        return not self.done

    def end(self):
        pass


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(preparation, "Process", Here)
    monkeypatch.setattr(Here, "begun", [])
    return Here


@pytest.fixture
def ds(tmp_path):
    images = np.arange(CATS + DOGS, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 3, 4, 5), np.uint8)
    labels = np.repeat([0, 1], [CATS, DOGS])
    mm.ingest({"image": images, "label": labels, "age": np.arange(CATS + DOGS) * 10}, tmp_path / "pets")
    return mm.open(tmp_path / "pets")


def contents(dataset):
    return {name: np.array(dataset[name][:]) for name in dataset.fields}


def same_contents(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("fn", [augmenting.noisy, augmenting.scaled, augmenting.in_place, functools.partial(augmenting.noisy)])
def test_a_round_holds_what_the_function_makes_of_each_original(here, ds, tmp_path, fn):
    rounds = ds.augmented(fn, tmp_path / "rounds", balance="label", samples_per_class=10, seed=3)
    found = contents(rounds.dataset(1))
    assert rounds.counts == {0: 10, 1: 10} and np.bincount(found["label"]).tolist() == [10, 10]
    np.testing.assert_array_equal(found["label"], ds["label"][:][found["original"]])
    np.testing.assert_array_equal(found["age"], found["original"] * 10)
    seen: dict[int, int] = {}
    for image, original in zip(found["image"], found["original"].tolist(), strict=True):
        repeat = seen[original] = seen.get(original, -1) + 1
        expected = fn(np.array(ds["image"][original]), _generator(3, 1, original, repeat, 0))
        np.testing.assert_array_equal(image, expected)
        assert image.dtype == expected.dtype
    assert not found["duplicate"].any() and set(seen.values()) == {0, 1, 2}
    assert ds["image"][5].max() == 5  # what fn changes is a copy


def test_rounds_are_the_same_in_every_run_and_differ_from_one_another(here, ds, tmp_path):
    def rounds(name, **options):
        return ds.augmented(augmenting.noisy, tmp_path / name, **{"balance": "label", "samples_per_class": 9, **options})

    one, other = rounds("one"), rounds("other", epochs_per_round=3)
    first = contents(one.dataset(0))
    for number in (2, 0):
        same_contents(contents(one.dataset(number)), contents(other.dataset(number)))
    same_contents(contents(one.dataset(0)), first)  # made once more
    assert not np.array_equal(contents(one.dataset(1))["original"], first["original"])
    assert not np.array_equal(contents(rounds("third", seed=1).dataset(0))["original"], first["original"])


def test_repeats_of_one_original_differ_where_the_function_lets_them(here, tmp_path):
    images, labels = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4), np.zeros(1, np.int64)
    ds = mm.open({"image": images, "label": labels})
    two = ds.augmented(augmenting.coin, tmp_path / "two", balance="label", samples_per_class=2)
    for number in range(8):
        found = contents(two.dataset(number))
        assert len(np.unique(found["image"], axis=0)) == 2 and not found["duplicate"].any()
    three = ds.augmented(augmenting.coin, tmp_path / "three", balance="label", samples_per_class=3)
    with pytest.warns(AugmentationWarning, match=r"round 0 holds samples that equal another of the same original \(0: 1\)"):
        found = contents(three.dataset(0))
    assert len(np.unique(found["image"], axis=0)) == 2 and found["duplicate"].tolist() == [False, False, True]
    three.dataset(1)  # says so once


def test_originals_used_once_are_taken_as_the_function_makes_them(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.same, tmp_path / "rounds", balance="label", samples_per_class=DOGS)
    found = contents(rounds.dataset(0))
    assert not found["duplicate"].any() and len(set(found["original"].tolist())) == 2 * DOGS
    np.testing.assert_array_equal(found["image"], ds["image"][:][found["original"]])


def test_for_validation_originals_stay_as_they_are_and_scarce_classes_are_filled_up(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.noisy, tmp_path / "val", balance="label", samples_per_class=10, validation=True)
    assert rounds.counts == {0: CATS, 1: 10} and rounds.round_of(99) == 0 and rounds.disk_nbytes == rounds.round_nbytes
    found = contents(rounds.dataset(0))
    firsts = [found["original"].tolist().index(number) for number in range(CATS + DOGS)]
    np.testing.assert_array_equal(found["image"][firsts], ds["image"][:])
    others = np.delete(np.arange(CATS + 10), firsts)
    assert len(others) == 10 - DOGS and (found["label"][others] == 1).all()
    assert all(np.ptp(image) > 0 for image in found["image"][others])
    b = rounds.batches(8, target="label")
    assert [len(x) for x, _ in b] == [8] * 5 and here.begun == [0]
    np.testing.assert_array_equal(b.read(7, 0)[0], b.read(0, 0)[0])
    largest = ds.augmented(augmenting.noisy, tmp_path / "largest", balance="label", validation=True)
    assert largest.counts == {0: CATS, 1: CATS}


def test_epochs_read_their_round_and_two_rounds_are_on_disk(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label", samples_per_class=10, epochs_per_round=2)
    b = rounds.batches(8, target=("label", "age"), shuffle=True, seed=5)
    assert len(b) == 3 and "3 x 8" in repr(b) and here.begun == []  # known before there is a round
    orders = set()
    for epoch in range(5):
        made = list(b)
        round_ = contents(rounds.dataset(epoch // 2))
        originals = np.concatenate([age for _, (_, age) in made]) // 10
        assert sorted(originals.tolist()) == sorted(round_["original"].tolist())
        assert sorted(x.tobytes() for x, _ in made for x in x) == sorted(x.tobytes() for x in round_["image"])
        orders.add(originals.tobytes())
        stores = sorted(name for name in os.listdir(rounds.directory) if name.startswith("round-"))
        assert stores == [f"round-{number:06d}" for number in (epoch // 2, epoch // 2 + 1)]
    assert len(orders) == 5 and here.begun == [0, 1, 2, 3] and set(rounds.waits) == {0}
    assert b.position == (5, 0)


def test_a_saved_position_is_gone_on_with_in_the_same_round(here, ds, tmp_path):
    def batches(**options):
        given = {"balance": "label", "samples_per_class": 10, "epochs_per_round": 2, **options}
        return ds.augmented(augmenting.noisy, tmp_path / "rounds", **given).batches(8, target="label", shuffle=True)

    b = batches()
    expected = [b.read(epoch, batch) for epoch in (6, 7) for batch in range(3)]
    state = json.loads(json.dumps(b.state_at(6, 1)))
    del b
    here.begun.clear()
    later = batches()
    later.load_state_dict(state)
    for epoch in (6, 7):
        for k, (x, y) in enumerate(later):
            batch = k + 1 if epoch == 6 else k
            np.testing.assert_array_equal(x, expected[3 * (epoch - 6) + batch][0])
            np.testing.assert_array_equal(y, expected[3 * (epoch - 6) + batch][1])
    assert here.begun == []  # rounds 3 and 4 are there
    with pytest.raises(StateMismatchError, match="epochs_per_round: saved 2, now 4"):
        batches(epochs_per_round=4).load_state_dict(state)
    shutil.rmtree(tmp_path / "rounds")
    with pytest.raises(StateMismatchError, match="other data"):
        batches(seed=1).load_state_dict(state)


def test_other_numbers_of_workers_go_on_in_a_round(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label", samples_per_class=10, epochs_per_round=2)
    halves = [rounds.batches(4, shuffle=4, shard=(worker, 2)) for worker in range(2)]
    seen = [halves[worker].read(0, 0)[0] for worker in range(2)]
    for worker in range(3):
        third = rounds.batches(2, shuffle=4, shard=(worker, 3))
        third.load_state_dict(halves[1].state_at(0, 1))
        seen += list(third)
    whole = np.concatenate(list(rounds.batches(20)))
    assert sorted(map(bytes, np.concatenate(seen))) == sorted(map(bytes, whole))


def test_training_waits_for_a_round_and_says_so_once(here, ds, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(here, "late", True)
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label", epochs_per_round=1)
    b = rounds.batches(8)
    next(iter(b))
    assert "preparing round 0 of" in capfd.readouterr().err
    with pytest.warns(AugmentationWarning, match="round 1 is not ready, and training waits for it"):
        b.read(1, 0)
    b.read(2, 0)
    assert set(rounds.waits) == {0, 1, 2} and capfd.readouterr().err == ""


def test_a_write_that_was_stopped_is_gone_on_with(here, ds, tmp_path, monkeypatch):
    from mmapstore.operations.ingest import plan

    def rounds(name):
        return ds.augmented(augmenting.noisy, tmp_path / name, balance="label", samples_per_class=60, seed=1)

    expected = contents(rounds("whole").dataset(0))
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 700)  # blocks of a few samples
    monkeypatch.setattr(round_order, "WINDOW_BYTES", 4000)  # windows, too
    expected_in_windows = contents(rounds("windows").dataset(0))
    assert sorted(expected_in_windows["original"].tolist()) == sorted(expected["original"].tolist())
    calls = []
    make = Augmentation.make

    def stopping(self, number, sample, *given):
        calls.extend([sample] * (given[-1].base is not None))  # not of repeats that are made once more for their digests
        if len(calls) == 100:
            raise WriteError("stopped")
        return make(self, number, sample, *given)

    monkeypatch.setattr(Augmentation, "make", stopping)
    stopped = rounds("stopped")
    with pytest.raises(WriteError, match="stopped"):
        stopped.dataset(0)
    assert not os.path.exists(stopped.path(0)) and os.path.exists(f"{stopped.path(0)}.partial")
    same_contents(contents(stopped.dataset(0)), expected_in_windows)
    assert len(calls) - 100 < 120 + 80  # round 1, and the rest of round 0


def test_a_full_disk_stops_a_round_that_is_waited_for_and_loses_nothing(here, ds, tmp_path, monkeypatch):
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label", epochs_per_round=1)
    b = rounds.batches(8)

    def full(number, nbytes):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(npy_file, "allocate", full)
    with pytest.raises(WriteError, match="The disk is full"):
        b.read(0, 0)
    monkeypatch.undo()
    monkeypatch.setattr(preparation, "Process", here)
    b.read(0, 0)
    assert os.listdir(rounds.path(0)) and os.path.isfile(rounds.path(1) + "/mmapstore.json")


def test_a_round_that_fails_in_the_background_raises_when_it_is_needed(here, ds, tmp_path):
    ds = ds.select(np.arange(len(ds)) < CATS)  # each original in one of three rounds
    rounds = ds.augmented(
        augmenting.raising_for_seven, tmp_path / "rounds", balance="label", samples_per_class=10, epochs_per_round=1
    )
    which = next(number for number in range(3) if 7 in rounds._order.draw(number).samples)
    b = rounds.batches(5)
    for number in range(which):
        b.read(number, 0)
    with pytest.raises(TransformError, match=rf"fn raised ZeroDivisionError for sample 7 \(repeat 0 in round {which}\)") as error:
        b.read(which, 0)
    assert "raising_for_seven" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("fn", "options", "error", "text"),
    [
        (augmenting.noisy, {"samples_per_class": 0}, InvalidValueError, "samples_per_class=0 is too small"),
        (augmenting.noisy, {"samples_per_class": 2.5}, InvalidTypeError, "samples_per_class=2.5 is not a whole number"),
        (augmenting.noisy, {"epochs_per_round": 0}, InvalidValueError, "epochs_per_round=0"),
        (augmenting.noisy, {"balance": "class"}, KeyNotFoundError, "'class', which is not there"),
        (augmenting.noisy, {"balance": None}, InvalidTypeError, "expected the name of a field"),
        (augmenting.noisy, {"field": "picture"}, KeyNotFoundError, "field='picture' is not there"),
        (augmenting.noisy, {"field": "label"}, InvalidValueError, "expected two fields"),
        (augmenting.noisy, {"max_memory": "10MB"}, MemoryBudgetError, "over max_memory=10.0 MB"),
        (augmenting.noisy, {"max_disk": "100kB"}, InvalidValueError, "two rounds take .* Give a larger max_disk=, or fewer"),
        (lambda x, rng: x, {}, InvalidTypeError, "does not pickle .* not as a lambda"),
        ("noisy", {}, InvalidTypeError, "cannot be called"),
        (augmenting.raising, {}, TransformError, "fn raised ZeroDivisionError for sample 0: as it happens"),
        (augmenting.nothing, {}, InvalidTypeError, "returned None .is a return missing"),
        (augmenting.ragged, {}, TransformError, "fn raised ValueError for sample 0: setting an array element"),
        (augmenting.scaled, {"validation": True}, InvalidValueError, "validation=True stores originals"),
    ],
)
def test_bad_arguments_are_told_at_once(here, ds, tmp_path, fn, options, error, text):
    with pytest.raises(error, match=text):
        ds.augmented(fn, tmp_path / "rounds", **{"balance": "label", **options})
    assert here.begun == []


def test_labels_have_to_be_classes(here, tmp_path):
    images = np.zeros((4, 1, 2, 2), np.uint8)
    with pytest.raises(InvalidValueError, match="not whole"):
        mm.open({"x": images, "label": np.linspace(0, 1, 4)}).augmented(augmenting.noisy, tmp_path / "r", balance="label")
    mm.ingest({"x": images, "label": np.array([0, 0, 2, 2])}, tmp_path / "named")
    text = (tmp_path / "named" / "mmapstore.json").read_text()
    manifest = json.loads(text)
    manifest["fields"]["label"]["notes"] = {"classes": ["cat", "cow", "dog"]}
    (tmp_path / "named" / "mmapstore.json").write_text(json.dumps(manifest))
    with pytest.warns(LabelWarning, match="has no sample of 'cow'"):
        rounds = mm.open(tmp_path / "named").augmented(augmenting.noisy, tmp_path / "r", balance="label")
    assert rounds.counts == {"cat": 2, "dog": 2} and rounds.dataset(0).class_names == ["cat", "cow", "dog"]


def test_other_shapes_later_are_named_with_sample_and_round(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.other_shape_for_seven, tmp_path / "rounds", balance="label", samples_per_class=CATS)
    with pytest.raises(
        InvalidValueError, match=r"returned \(3, 1, 5\) uint8 for sample 7 \(repeat 0 in round 0\); expected \(3, 4, 5\)"
    ):
        rounds.dataset(0)


def test_a_directory_belongs_to_one_dataset_function_and_seed(here, ds, tmp_path):
    given = {"balance": "label", "samples_per_class": 5}
    ds.augmented(augmenting.noisy, tmp_path / "rounds", **given).dataset(0)
    with pytest.raises(StateMismatchError, match=r"seed \(there 0, here 1\)"):
        ds.augmented(augmenting.noisy, tmp_path / "rounds", **given, seed=1)
    with pytest.raises(StateMismatchError, match=r"fn \(there .*noisy.*, here .*in_place"):
        ds.augmented(augmenting.in_place, tmp_path / "rounds", **given)
    with pytest.raises(StateMismatchError, match="dataset"):
        ds.split(0.95)[0].augmented(augmenting.noisy, tmp_path / "rounds", **given)
    (tmp_path / "rounds" / "rounds.json").write_text("{")
    with pytest.raises(StateMismatchError, match="is not what mmapstore wrote"):
        ds.augmented(augmenting.noisy, tmp_path / "rounds", **given)


def test_one_run_at_a_time_and_in_one_process_the_last_one(here, ds, tmp_path):
    one = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label")
    other = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label")
    same_contents(contents(one.dataset(0)), contents(other.dataset(0)))  # the notebook cell was run twice
    one.close()
    other.close()
    with exclusive_lock(str(tmp_path / "rounds" / "rounds.lock"), "rounds"):
        with pytest.raises(LockedFileError, match="is being written by another run: process"):
            ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label")
        with pytest.raises(LockedFileError):
            one.dataset(3)
    with one:
        one.dataset(3)
    assert not os.path.exists(tmp_path / "rounds" / "rounds.lock")


def test_a_dataset_that_no_other_process_can_open_is_told_at_once(here, ds, tmp_path):
    ds.function = lambda: 0
    with pytest.raises(InvalidTypeError, match="cannot be opened in other processes"):
        ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label")


def test_too_little_room_on_the_disk_is_told_before_anything_is_written(here, ds, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(WriteError, match=r"take .* more, and its disk has 1\.00 kB free"):
        ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label")


def test_windows_and_a_second_balance_are_refused(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label")
    with pytest.raises(InvalidValueError, match="mixed order"):
        rounds.batches(8, target=mm.NextFrame())
    with pytest.raises(InvalidValueError, match="balanced when they are made"):
        rounds.batches(8, balance="label")
    with pytest.raises(InvalidValueError, match="in an order that"):
        mm.open(rounds.dataset(0)).batches(8, target=mm.NextFrame())


def test_a_contact_sheet_and_a_repr(here, ds, tmp_path):
    rounds = ds.augmented(augmenting.noisy, tmp_path / "rounds", balance="label", samples_per_class=10)
    made = rounds.preview(tmp_path / "sheet.png", 1, samples="0:6")
    assert made.samples == tuple(range(6)) and (tmp_path / "sheet.png").exists()
    assert "2 classes, 20 samples a round (an original of the rarest class 2.5 times), 10 epochs each" in repr(rounds)
    assert sum(entry.stat().st_size for entry in os.scandir(rounds.path(1))) <= rounds.round_nbytes


def test_a_process_whose_owner_ended_before_it_began_ends_without_a_word():
    ended = subprocess.run([sys.executable, "-P", "-c", processes._PROGRAM], stdin=subprocess.DEVNULL, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (processes._INTERRUPTED, b"", b"")
