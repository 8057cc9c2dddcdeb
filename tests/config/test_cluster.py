"""What schedulers say of a process, put into torchrun's and LLaMA-Factory's words."""

from __future__ import annotations

import os
from typing import Any

import pytest

from hone.commands import env
from hone.config.cluster import expand_counts, expand_hosts
from hone.config.environment import become_task, read_environment

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "gpu[01-02]", "SLURM_NNODES": "2"}


def said(variables: dict[str, str]) -> dict[str, Any]:
    environment, mistakes = read_environment(variables)
    assert not mistakes, mistakes
    return vars(environment)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("login1", ("login1",)),
        ("a1,b2", ("a1", "b2")),
        ("gpu[08-10,12],b1", ("gpu08", "gpu09", "gpu10", "gpu12", "b1")),
        ("r[1-2]n[3,05]", ("r1n3", "r1n05", "r2n3", "r2n05")),
        ("n[1-2].cluster", ("n1.cluster", "n2.cluster")),
    ],
)
def test_lists_of_machines(text, hosts):
    assert expand_hosts(text) == hosts


def test_counts_of_tasks():
    assert expand_counts("4(x2),1") == [4, 4, 1]


def test_slurm_with_a_task_a_device_makes_each_a_process_of_the_run(monkeypatch):
    tasks = {"SLURM_NTASKS": "5", "SLURM_PROCID": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_TASKS_PER_NODE": "3,2"}
    found = said({**SLURM, **tasks})
    assert found["launched"] and found["master_addr"] == "gpu01" and found["cluster"].hosts == ("gpu01", "gpu02")
    for name in os.environ:
        if name.startswith(("SLURM", "MASTER", "RANK", "WORLD", "LOCAL")):
            monkeypatch.delenv(name)
    for name, value in {**SLURM, **tasks}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that monkeypatch takes away what is set below
        monkeypatch.delenv(name)
    become_task()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["4", "5", "1", "2", "gpu01", "29500"]
    assert read_environment()[0].launched


def test_slurm_with_a_task_a_machine_has_each_start_its_processes():
    found = said({**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_NODEID": "1"})
    assert not found["launched"]
    assert (found["num_nodes"], found["node_rank"], found["master_addr"], found["master_port"]) == (2, 1, "gpu01", None)


def test_what_the_user_says_goes_before_slurm():
    own = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "head"}
    found = said({**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", **own})
    assert (found["num_nodes"], found["node_rank"], found["master_addr"]) == (3, 2, "head")
    assert not said({**SLURM, "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "NPROC_PER_NODE": "8"})["launched"]
    assert said({"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_NTASKS": "1"})["num_nodes"] == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "this machine alone, processes: one a device"),
        ({**SLURM, "SLURM_NTASKS": "2"}, "machine 0 of 2, processes on each: one a device; they meet at gpu01:29500 (by SLURM)"),
        ({**SLURM, "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, "this is rank 3 of 4, which meet at gpu01:29500 (by SLURM)"),
        ({"NNODES": "2", "NODE_RANK": "7", "MASTER_ADDR": "a"}, "NODE_RANK is 7 of 2 machines"),
        (
            {"RDZV_ID": "x", "MIN_NNODES": "1", "MAX_NNODES": "4"},
            "1 to 4 machines, processes on each: one a device; they meet at",
        ),
    ],
)
def test_env_tells_what_is_recognised(variables, words, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert env.report()["processes"].startswith(words)


def test_kubeflows_pods():
    """RANK and WORLD_SIZE are there, and mean pods and processes: they must not be taken for a process's own."""
    pod = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "4", "PET_MASTER_ADDR": "job-master-0"}
    pod |= {"PET_MASTER_PORT": "23456", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "RANK": "1", "WORLD_SIZE": "8"}
    found = said(pod)
    assert not found["launched"] and found["num_processes_per_node"] == 4
    assert (found["num_nodes"], found["node_rank"], found["master_addr"], found["master_port"]) == (2, 1, "job-master-0", 23456)


def test_kubeflows_elastic_pods():
    pod = {"PET_NNODES": "1:3", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": "job-worker-0:23456", "PET_MAX_RESTARTS": "5"}
    found = said({**pod, "PET_NPROC_PER_NODE": "auto"})
    assert (found["min_nodes"], found["max_nodes"], found["max_restarts"], found["rendezvous_id"]) == (1, 3, 5, "hone")
    assert (found["master_addr"], found["master_port"], found["num_processes_per_node"]) == ("job-worker-0", 23456, None)


def test_rank_and_world_size_without_local_rank_count_machines():
    found = said({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "head", "MASTER_PORT": "2222"})
    assert not found["launched"] and (found["num_nodes"], found["node_rank"]) == (4, 1)
    assert said({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "head"})["launched"]


@pytest.mark.parametrize(
    ("variables", "key", "words"),
    [
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK", "is 2 of 2 machines"),
        ({"NNODES": "2", "NODE_RANK": "1"}, "MASTER_ADDR", "wanted the address of machine 0"),
        ({"MIN_NNODES": "1", "RDZV_ID": "x"}, "MAX_NNODES", "missing beside MIN_NNODES"),
        ({"MIN_NNODES": "1", "MAX_NNODES": "2"}, "MIN_NNODES", "has no effect without RDZV_ID"),
        ({"MIN_NNODES": "3", "MAX_NNODES": "2", "RDZV_ID": "x"}, "MIN_NNODES", "is 3, and MAX_NNODES is 2"),
        ({"NNODES": "two"}, "NNODES", 'saw "two"'),
    ],
)
def test_contradictions_are_told(variables, key, words):
    _, (mistake,) = read_environment(variables)
    assert mistake.key == key and words in mistake.message
