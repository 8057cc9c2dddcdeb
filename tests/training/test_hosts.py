"""Runs over hosts with addresses of their own: they learn what one process learns, and who is missing or unlike is named.

Tolerance as in test_invariance: fp32 sums in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.hosts import Host, hosts, unavailable
from tests.runs import losses_of, write_run

reason = unavailable()
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)


@pytest.fixture(scope="module")
def two():
    with hosts(2) as made:
        yield made


def tasks(machines: list[Host], each: int, *, missing: tuple[int, ...] = ()) -> list[tuple[Host, dict[str, str]]]:
    """SLURM's variables of `each` tasks on every machine, but for the `missing` ones."""
    found, total = [], len(machines) * each
    for rank in range(total):
        node = rank // each
        said = {"JOB_ID": "7", "STEP_ID": "0", "NTASKS": total, "PROCID": rank, "LOCALID": rank % each, "NNODES": len(machines)}
        said |= {
            "NODEID": node,
            "JOB_NODELIST": ",".join(host.address for host in machines),
            "TASKS_PER_NODE": f"{each}(x{len(machines)})",
        }
        if rank not in missing:
            found.append((machines[node], {f"SLURM_{name}": str(value) for name, value in said.items()}))
    return found


def train(file: Path, places: list[tuple[Host, dict[str, str]]], *words: str) -> list[worlds.Process]:
    started = []
    for number, (host, variables) in enumerate(places):
        log_file = file.with_suffix(f".{number}.log")
        started.append(worlds.start_training([str(file), *words], variables=variables, log_file=log_file, host=host))
    return started


@pytest.mark.slow
def test_two_hosts_learn_what_one_process_learns(two, tiny_run, tmp_path):
    """A task a device: 2 on each host; the last step of an epoch has 3 rows, fewer than processes."""
    settings: dict[str, Any] = {**tiny_run, "max_steps": 6, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    one = write_run({**settings, "gradient_accumulation_steps": 4, "output_dir": str(tmp_path / "one")}, tmp_path / "one.yaml")
    worlds.train(one, 1)
    many = write_run({**settings, "output_dir": str(tmp_path / "many")}, tmp_path / "many.yaml")
    started = train(many, tasks(two, 2))
    codes, said = [process.end() for process in started], "\n".join(process.said for process in started)
    assert codes == [0] * 4, said
    assert losses_of(tmp_path / "many") == pytest.approx(losses_of(tmp_path / "one"), abs=1e-5)


@pytest.mark.slow
def test_who_does_not_come_is_named(two, tiny_run, tmp_path):
    file = write_run(tiny_run, tmp_path / "run.yaml")
    started = train(file, tasks(two, 2, missing=(3,)), "join_timeout=4")
    assert [process.end() for process in started] == [1, 1, 1]
    assert "rank 3 did not come within 4 s (join_timeout); 3 of 4 came, on" in started[0].said
    assert two[0].address in started[0].said and two[1].address in started[0].said
    assert "rank 3 did not come" in started[2].said and not started[1].said.count("rank 3")  # told once a machine


@pytest.mark.slow
def test_a_process_of_other_settings_is_named(two, tiny_run, tmp_path):
    started = []
    for rate, (host, variables) in zip((0.01, 0.02), tasks(two, 1), strict=True):
        file = write_run({**tiny_run, "learning_rate": rate}, tmp_path / f"{rate}.yaml")
        started += train(file, [(host, variables)])
    assert [process.end() for process in started] == [1, 1]
    for process in started:
        assert "learning_rate: 0.01 on rank 0" in process.said and f"({two[1].address}), rank 1" in process.said
