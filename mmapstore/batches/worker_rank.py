"""The rank of this process among the workers of a run: what frameworks and launchers say, in one order."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..plain.errors import InvalidValueError

# (name for messages, variable of the rank, variable of the number): set by launchers for each process. SLURM_NTASKS is none of
# them: a batch script without srun has it too, and is one process.
LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("SLURM", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPI", "PMI_RANK", "PMI_SIZE"),
)


class WorkerRank(NamedTuple):
    """This process is worker `rank` of `size`, as `source` says."""

    rank: int
    size: int
    source: str


def worker_rank(environment: Mapping[str, str] | None = None) -> WorkerRank:
    """Return the rank of this process: that of the first who knows of several workers; (0, 1) where nobody does.

    In this order: a `keras.distribution` over several processes, a `tf.distribute` strategy in scope, `torch.distributed` and
    `jax.distributed` once they are initialised, TF_CONFIG, torchrun, SLURM, MPI. Frameworks that nobody has imported are not
    imported here. A Keras distribution is told to deal out no batches (`auto_shard_dataset = False`).

    >>> worker_rank({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"})
    WorkerRank(rank=2, size=4, source='SLURM')
    """
    found = next(_ranks(os.environ if environment is None else environment), None)
    return WorkerRank(0, 1, "no other worker found") if found is None else found


def _ranks(environment: Mapping[str, str]) -> Iterator[WorkerRank]:
    for rank in (*_frameworks(), _of_tf_config(environment), *_launched(environment)):
        if rank is None or rank.size == 1:
            continue
        if not 0 <= rank.rank < rank.size:
            raise InvalidValueError(
                f"shard='auto': {rank.source} says that this is worker {rank.rank} of {rank.size}; expected one from 0 to "
                f"{rank.size - 1}. Correct it, or give shard=(index, count)."
            )
        yield rank


def _frameworks() -> Iterator[WorkerRank | None]:
    yield _of_keras(sys.modules.get("keras"))
    tensorflow = sys.modules.get("tensorflow")
    yield None if tensorflow is None else rank_in(tensorflow.distribute.get_strategy())
    torch = getattr(sys.modules.get("torch"), "distributed", None)
    if torch is not None and torch.is_available() and torch.is_initialized():
        yield WorkerRank(torch.get_rank(), torch.get_world_size(), "torch.distributed")
    jax = sys.modules.get("jax")
    if jax is not None and getattr(jax.distributed, "is_initialized", bool)():
        yield WorkerRank(jax.process_index(), jax.process_count(), "jax.distributed")


def _of_keras(keras: Any) -> WorkerRank | None:
    distribution = None if keras is None else keras.distribution.distribution()
    if distribution is None or getattr(distribution, "num_processes", 1) == 1:
        return None
    # Processes that hold one model together get the same samples.
    count = min(distribution.num_model_replicas, distribution.num_processes)
    distribution.auto_shard_dataset = False
    return WorkerRank(int(distribution.data_shard_id), int(count), "keras.distribution")


def rank_in(strategy: Any) -> WorkerRank | None:
    """Return the rank of this process in a `tf.distribute` strategy; None for strategies of one process."""
    resolver = strategy.cluster_resolver
    if resolver is None:
        return None
    return _in_cluster(resolver.cluster_spec().as_dict(), resolver.task_type, resolver.task_id, "tf.distribute")


def _of_tf_config(environment: Mapping[str, str]) -> WorkerRank | None:
    config = json.loads(environment.get("TF_CONFIG") or "{}")
    task = config.get("task", {})
    return _in_cluster(config.get("cluster", {}), task.get("type"), task.get("index"), "TF_CONFIG")


def _in_cluster(cluster: Mapping[str, Any], kind: Any, index: Any, source: str) -> WorkerRank | None:
    """Return the rank among chief and workers, who train; None for others, as evaluators."""
    chiefs = len(cluster.get("chief", cluster.get("master", ())))
    if kind not in ("chief", "master", "worker"):
        return None
    return WorkerRank(int(index) + (chiefs if kind == "worker" else 0), chiefs + len(cluster.get("worker", ())), source)


def _launched(environment: Mapping[str, str]) -> Iterator[WorkerRank]:
    for name, rank, size in LAUNCHERS:
        if rank in environment and size in environment:
            yield WorkerRank(int(environment[rank]), int(environment[size]), name)
