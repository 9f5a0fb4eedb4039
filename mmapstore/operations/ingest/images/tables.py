"""Tables of path and label: CSV with a header line, or JSON lines."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ....files.system_errors import explaining_read_errors
from ....plain.errors import DamagedFileError, InvalidValueError, KeyNotFoundError, SourceWarning, UnsafeFileError, warn_user
from ..contract import Array
from .files import ListedImages

_WHOLE = re.compile(r"[+-]?[0-9]+")
_Row = tuple[int, dict[str, Any]]  # line, counted from 1; values by column


def images_of_table(table: str, path_column: str, label_column: str | None) -> ListedImages:
    """List the images that a table names, in its order, with the labels of a column, "label" unless it is named.

    Paths are relative to the table and stay in its directory; an absolute path is taken as it is. Columns that are not read are
    named in a SourceWarning. Raises KeyNotFoundError if a column that was named is not there.
    """
    named, label_column = label_column is not None, label_column or "label"
    paths: list[str] = []
    labels: list[Any] = []
    unread: dict[str, None] = {}
    folder = os.path.dirname(table)
    for line, row in _rows(table):
        if path_column not in row:
            raise KeyNotFoundError(
                f"{table}, line {line}: there is no {path_column!r}, only {', '.join(map(repr, row)) or 'nothing'}. "
                "Name the column of paths with path_column= (--path-column), and that of labels with label_column=."
            )
        if named and label_column not in row:
            raise KeyNotFoundError(
                f"{table}, line {line}: there is no column {label_column!r} of labels, only {', '.join(map(repr, row))}. "
                "Name one of these with label_column= (--label-column)."
            )
        unread |= dict.fromkeys(column for column in row if column not in (path_column, label_column))
        paths.append(_path(table, line, folder, row[path_column]))
        if paths[1:] and (label_column in row) != bool(labels):
            raise InvalidValueError(
                f"{table}, line {line}: {label_column!r} is {'there' if not labels else 'missing'}, and in the lines before it "
                f"{'is not' if not labels else 'was there'}. Every image needs one, or none has any."
            )
        if label_column in row:
            labels.append(_label(table, line, label_column, row[label_column]))
    if not paths:
        raise InvalidValueError(f"{table} names no images; expected a line for each, with {path_column!r} and {label_column!r}.")
    if unread:
        labelled = f"labels are those of {label_column!r}" if labels else "labels are those of label_column= (--label-column)"
        warn_user(
            f"{table}: not read are the columns {', '.join(map(repr, unread))}; {labelled}. To have another column as a field, "
            "open its array beside the store: mmapstore.open({**ds.fields, 'patient': array}), an entry for each of ds['source'].",
            SourceWarning,
        )
    if not labels:
        return ListedImages(paths, read_too=(table,))
    numbers, classes = _numbered(table, labels)
    return ListedImages(paths, numbers, classes, read_too=(table,))


def _rows(table: str) -> Iterator[_Row]:
    with explaining_read_errors(table), Path(table).open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _json_lines(table, file) if table.lower().endswith((".jsonl", ".ndjson")) else _csv_lines(table, file)
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{table} is not UTF-8 text ({error}). Save it again as UTF-8.") from error


def _csv_lines(table: str, file: TextIO) -> Iterator[_Row]:
    reader = csv.reader(file, delimiter="\t" if table.lower().endswith(".tsv") else ",", strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DamagedFileError(
                    f"{table}, line {reader.line_num}: it has {len(row)} values, "
                    f"and the header {len(header)} ({', '.join(header)}). "
                    "Put values that hold the separator into quotes."
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DamagedFileError(f"{table}, line {reader.line_num}: it cannot be read as a table ({error}).") from error


def _json_lines(table: str, file: TextIO) -> Iterator[_Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(f"{table}, line {number}: it is not JSON ({error}). Expected one object per line.") from error
        if not isinstance(row, dict):
            raise DamagedFileError(
                f"{table}, line {number}: it is {line.strip()[:40]}; expected an object such as "
                '{"path": "a.jpg", "label": "cat"}.'
            )
        yield number, row


def path_inside(folder: str, name: str) -> str | None:
    """Return the path of `name` in `folder`; None for an absolute path, and one that leads out of the folder."""
    steps = name.replace("\\", "/").split("/")
    if os.path.isabs(name) or os.path.splitdrive(name)[0] or steps[0] == "" or ".." in steps or "\0" in name:
        return None
    return os.path.join(folder, *(step for step in steps if step not in ("", ".")))


def _path(table: str, line: int, folder: str, path: Any) -> str:
    if not isinstance(path, str) or not path.strip():
        raise InvalidValueError(f"{table}, line {line}: its path is {path!r}; expected the path of an image.")
    named: str = path.strip()
    if os.path.isabs(named):
        return named
    inside = path_inside(folder, named)
    if inside is None:
        raise UnsafeFileError(
            f"{table}, line {line}: {named!r} leads out of the table's directory. "
            "Paths are relative to the table and stay beside or below it; if it is meant, write it as an absolute path."
        )
    return inside


def _label(table: str, line: int, column: str, label: Any) -> int | float | str:
    if isinstance(label, str) and label.strip():
        return label.strip()
    if isinstance(label, (int, float)) and not isinstance(label, bool):
        found: int | float = label
        return found
    raise InvalidValueError(f"{table}, line {line}: its {column!r} is {label!r}; expected a class name or a number.")


def _numbered(table: str, labels: list[Any]) -> tuple[Array, tuple[str, ...] | None]:
    """Return labels as numbers, and the names of the classes that they number; None if the labels are numbers."""
    if all(isinstance(label, int) or (isinstance(label, str) and _WHOLE.fullmatch(label)) for label in labels):
        whole = [int(label) for label in labels]
        largest = max(whole, key=abs)
        if not -(2**63) <= largest < 2**63:
            raise InvalidValueError(f"{table}: the label {largest} does not fit 64 bits. Give class names instead of numbers.")
        return np.array(whole, np.int64), None
    values = [_as_float(label) for label in labels]
    if all(value is not None for value in values):
        return np.array(values, np.float32), None
    classes = tuple(sorted({str(label) for label in labels}))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[str(label)] for label in labels], np.int64), classes


def _as_float(label: Any) -> float | None:
    try:
        found = float(label)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
