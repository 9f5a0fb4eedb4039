"""Run in a child process: epochs over a cached archive, compared with what is expected. Prints JSON of what was decoded.

Arguments: path of the archive, directory of the cache, path of the expected samples, seed, and how many blocks to fill before
waiting to be killed (0: to the end).
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import mmapstore as mm
from mmapstore.readers import cache_file, cached


def main() -> None:
    archive, directory, expected_path, seed, stop_after = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    cached.BLOCK_BYTES = 1
    cache_file.SYNC_BYTES = 3000
    expected = np.load(expected_path)
    written: list[int] = []
    write = cache_file.CacheFile.write

    def counted(self, number, samples):
        write(self, number, samples)
        written.append(number)
        if len(written) == stop_after:
            print("waiting", flush=True)
            time.sleep(60)

    cache_file.CacheFile.write = counted
    ds = mm.open(archive).cache(directory)
    b = ds.batches(7, shuffle=40, seed=seed)
    found = sorted(sample.tobytes() for x in b for sample in x)
    right = found == sorted(sample.tobytes() for sample in expected) and ds[:].tobytes() == expected.tobytes()
    print(json.dumps({"written": written, "right": right}))


if __name__ == "__main__":
    main()
