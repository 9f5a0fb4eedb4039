"""Run in a child process: converts a tree, and how far private memory rose above what it was before. Prints JSON.

Arguments: source, target, max_memory in bytes, and a small source of the same kind, converted first to load the libraries.
"""

from __future__ import annotations

import json
import sys
import threading

from mmapstore.files.process_memory import give_back_free_memory, private_bytes
from mmapstore.operations.convert.tree import convert_all


def main():
    source, target, limit, small = sys.argv[1:]
    convert_all(small, f"{target.rpartition('/')[0]}/first{target[target.rindex('.') :] if '.' in target else ''}", progress=False)
    give_back_free_memory()
    before, peak, ended = private_bytes(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, private_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    report = convert_all(source, target, max_memory=int(limit), progress=False)
    ended.set()
    watcher.join()
    print(json.dumps({"rise": peak - before, "counts": report.counts}))


if __name__ == "__main__":
    main()
