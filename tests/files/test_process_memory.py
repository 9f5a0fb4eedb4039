"""Available memory, read from made-up /proc and /sys trees of both versions of control groups."""

import sys

import pytest

from mmapstore.files.process_memory import available_below, memory_available

GB = 10**9
V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file")
V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "active_file", "inactive_file")


def machine(root, version, groups, own, free=100 * GB):
    """`groups`: {path: (limit, usage, reclaimable)}; `own`: the path that /proc tells of this process."""
    mount, limit_name, usage_name, active, inactive = version
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {200 * GB // 1024} kB\nMemAvailable: {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(f"7:cpu:/elsewhere\n4:memory:{own}\n0::/\n" if version is V1 else f"0::{own}\n")
    for path, (limit, usage, reclaimable) in groups.items():
        group = root / mount / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        (group / limit_name).write_text(f"{limit}\n")
        (group / usage_name).write_text(f"{usage}\n")
        (group / "memory.stat").write_text(
            f"anon 1\nfile 99\n{active} {reclaimable // 4}\n{inactive} {reclaimable - reclaimable // 4}\n"
        )
    return str(root)


@pytest.mark.parametrize("version", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize(
    ("groups", "own", "expected"),
    [
        ({"/a": (8 * GB, 7 * GB, 5 * GB)}, "/a", 6 * GB),  # page cache that can be reclaimed is no loss
        ({"/job": (4 * GB, 3 * GB, 0), "/job/step": ("max", 2 * GB, 0)}, "/job/step", GB),  # SLURM: the job has the limit
        ({"/job": (64 * GB, GB, 0), "/job/step": (4 * GB, GB, 0)}, "/job/step", 3 * GB),
        ({"/job": (4 * GB, 3 * GB, 0), "/other": (GB, GB, 0)}, "/job", GB),
        ({"/": (2 * GB, GB, 0)}, "/docker/0123", GB),  # in a container the mount is the group
        ({"/": (2 * GB, GB, 0)}, "/../other", GB),
        ({"/a": (GB, 2 * GB, 0)}, "/a", 0),
        ({"/a": ("max", GB, 0)}, "/a", 100 * GB),
        ({}, "/a", 100 * GB),
    ],
)
def test_the_smallest_room_of_machine_group_and_parents(tmp_path, version, groups, own, expected):
    assert available_below(machine(tmp_path, version, groups, own)) == pytest.approx(expected, abs=1024)


def test_memory_high_limits_as_well(tmp_path):
    root = machine(tmp_path, V2, {"/a": (8 * GB, GB, 0)}, "/a")
    (tmp_path / "sys/fs/cgroup/a/memory.high").write_text(f"{2 * GB}\n")
    assert available_below(root) == GB


def test_a_system_without_proc_has_no_bound(tmp_path):
    assert available_below(str(tmp_path)) == sys.maxsize


def test_this_machine_has_some():
    assert memory_available() > 2**20
