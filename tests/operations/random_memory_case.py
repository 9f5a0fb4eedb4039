"""One random case of the memory bound, in a process that `test_random_memory` watches: `python -m random_memory_case JSON`.

The case is run on a small source first, so that libraries are loaded and pools filled before anything is counted.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from private_memory import predictions

import mmapstore as mm
from benchmarks.measure import report_arm
from mmapstore.bench.child import Say, baseline
from mmapstore.operations.statistics import statistics_at
from mmapstore.operations.verify import verify
from mmapstore.plain.errors import MemoryBudgetError
from mmapstore.plain.nests import leaves


def call(case: dict[str, Any], source: str, target: str, limit: int | None) -> int:
    """Run the operation of a case; return the predicted bytes of batches, 0 where `predictions` has them."""
    bound: dict[str, Any] = {} if limit is None else {"max_memory": limit}
    match case["operation"]:
        case "ingest":
            mm.ingest(source, target, layout=case["layout"], progress=False, **case["options"], **bound)
        case "convert":
            mm.convert(source, target, progress=False, **case["options"], **bound)
        case "verify":
            assert verify(source, source, progress=False, **bound)
        case "stats":
            statistics_at(source, progress=False, **bound)
        case adapter:
            batches = mm.open(source).batches(case["batch"], shuffle=case["shuffle"], seed=1, **bound)
            fed: Any = {"loop": lambda: batches, "to_tf": batches.to_tf, "to_keras": batches.to_keras}[adapter]()
            for x in fed if adapter != "to_keras" else (fed[number] for number in range(len(fed))):
                sum(int(memoryview(array).nbytes) for array in leaves(x))
            return batches.memory.total
    return 0


def run(case: dict[str, Any], say: Say) -> dict[str, Any]:
    with contextlib.suppress(MemoryBudgetError):
        call(case, case["small"], case["small_target"], None)
    baseline(say)
    with predictions() as required:
        try:
            predicted = call(case, case["source"], case["target"], case["limit"])
        except MemoryBudgetError as error:
            return {"refused": str(error)}
    return {"predicted": predicted or max(required)}


if __name__ == "__main__":
    report_arm(lambda say: run(json.loads(sys.argv[1]), say))
