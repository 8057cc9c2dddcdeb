"""What one process holds under each engine, counted by hand: a model of 3 layers of 1,000 weights and 400 outside of them."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import nn

from hone.config import load
from hone.training.planning import forecast
from hone.training.planning.memory import Memory, Weights, add_up
from hone.training.planning.sharding import ALONE, Sharding, Units, by_ddp, by_fsdp, by_zero, units_of
from tests.families import tiny

GPU, CPU = torch.device("cuda"), torch.device("cpu")
FULL = Weights(num=3400, num_trained=3400, frozen=0, trained=13_600, largest=1600, states=27_200, beside=False)
UNITS = Units(layer=4000, outside=1600, whole=13_600, trained_layer=4000, trained_outside=1600, trained=13_600, small=80)
LORA = Weights(num=3600, num_trained=200, frozen=6800, trained=800, largest=200, states=1600, beside=True)
LORA_UNITS = Units(layer=2256, outside=832, whole=7600, trained_layer=256, trained_outside=32, trained=800)
PASS = {"activations": 50_000, "logits": 700, "gradients": 8000, "host": 0}


def held(weights: Weights, sharding: Sharding, *, device: torch.device = GPU, **changes) -> Memory:
    settings = {"formed": 0, "optimizer": "adamw_torch_fused", "recomputes": False, "holds_gradients": False, "half": False}
    return add_up(weights, PASS, sharding=sharding, device=device, **{**settings, **changes})


def parts(memory: Memory) -> tuple[int, ...]:
    return memory.weights, memory.adapters, memory.gradients, memory.optimizer


def test_ddp_holds_everything_and_its_gradients_once_more():
    assert parts(held(FULL, ALONE)) == (13_600, 0, 8000, 27_200)
    assert parts(held(FULL, by_ddp(2, UNITS))) == (13_600, 0, 8000 + 13_600, 27_200)
    assert by_ddp(1, UNITS) == ALONE


def test_fsdp_holds_a_share_what_is_outside_of_layers_and_two_layers():
    found = held(FULL, by_fsdp(4, UNITS))
    assert parts(found) == (3400 + 1600 + 2 * 4000, 0, 2000 + 1600 + 2 * 4000, 6800) and found.host == 0
    kept = held(FULL, by_fsdp(4, UNITS, reshards=False))
    assert parts(kept) == (3400 + 13_600, 0, 2000 + 1600 + 8000, 6800), "all layers are there when the backward pass begins"
    several = held(FULL, by_fsdp(4, UNITS), holds_gradients=True)
    assert several.gradients == found.gradients + 3400, "its share of the micro-batches before"


def test_fsdp_divides_a_frozen_base_and_its_adapter():
    found = held(LORA, by_fsdp(2, LORA_UNITS))
    assert parts(found) == (3400 + 832 + 2 * 2256, 400, (8000 // 2) + 32 + 2 * 256, 800)


def test_shares_that_are_offloaded_rest_in_the_host_and_what_is_gathered_does_not():
    found = held(FULL, by_fsdp(4, UNITS, offloads=True))
    assert parts(found) == (1600 + 2 * 4000, 0, 1600 + 2 * 4000, 0) and found.host == 3400 + 2000 + 6800
    assert found.total == sum(asdict(found).values()) - found.host
    assert held(FULL, by_fsdp(4, UNITS, offloads=True), device=CPU).host == 0, "there the device is the host"


def test_zero_divides_states_then_gradients_then_weights():
    """bf16: 2 bytes a weight and a gradient, 4 of a master and 8 of moments; two buffers of 100 gradients, 400 bytes."""
    one, two, three = (by_zero(stage, 4, UNITS, half=True, bucket=100) for stage in (1, 2, 3))
    states = (27_200 + 4 * 3400) // 4
    assert parts(held(FULL, one)) == (6800, 0, 4000 + 400, states)
    assert parts(held(FULL, two)) == (6800, 0, 1000 + 400, states)
    assert parts(held(FULL, three)) == (1700 + 13_600 + 80, 0, 1000 + 400, states)
    few = by_zero(3, 4, UNITS, half=True, bucket=100, live=1500)
    assert held(FULL, few).weights == 1700 + 3000 + 80
    whole = by_zero(2, 4, UNITS, half=False, bucket=100, buckets=1)
    assert parts(held(FULL, whole)) == (13_600, 0, 2000 + 400, states)


def test_zero_is_planned_by_the_sizes_that_deepspeed_is_given(tmp_path):
    """A width of 32: buckets of 1,024 numbers where they are left to auto, two of them in stage 3, whose sending overlaps."""

    def planned(**fields):
        (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": fields}))
        words = ["model_name_or_path=x", "stage=sft", "dataset=x", "output_dir=o", f"deepspeed={tmp_path / 'ds.json'}"]
        run = load([*words, "finetuning_type=full", "use_cpu=true"], "train")
        return forecast._sharding(run, module, 4)

    module = tiny("llama")
    units = units_of(module, module.model.layers)
    assert planned(stage=1, reduce_bucket_size="auto") == by_zero(1, 4, units, half=False, bucket=1024, buckets=1)
    two = planned(stage=2, reduce_bucket_size=7, overlap_comm=True, offload_optimizer={"device": "cpu"})
    assert two == by_zero(2, 4, units, half=False, bucket=7, offloaded=["optimizer"]) and two.moved == 2 * 7 * 4
    three = planned(
        stage=3, reduce_bucket_size="auto", stage3_param_persistence_threshold="auto", stage3_max_live_parameters=50,
        offload_param={"device": "cpu"},
    )  # fmt: skip
    small = 4 * sum(one.numel() for one in module.parameters() if one.numel() <= 320)
    assert (three.weights, three.gradients, three.states, three.moved) == (4, 4, 4, 2 * 1024 * 4)
    assert three.gathered == 50 * 4 + small and small and three.offloaded == {"weights", "adapters"}


def test_zero_offloads_what_it_is_told():
    optimizer = held(FULL, by_zero(2, 4, UNITS, half=True, bucket=100, offloaded=["optimizer"]))
    assert parts(optimizer) == (6800, 0, 1400, 0) and optimizer.host == 10_200
    both = held(FULL, by_zero(3, 4, UNITS, half=True, bucket=100, live=1500, offloaded=["optimizer", "weights"]))
    assert parts(both) == (3080, 0, 1400, 0) and both.host == 10_200 + 1700


def test_the_optimizers_step_is_the_most_where_a_pass_is_short():
    short = {"activations": 50, "logits": 7, "gradients": 3, "host": 0}
    settings = {"formed": 0, "optimizer": "adamw_torch_fused", "recomputes": False, "holds_gradients": False, "half": False}
    found = add_up(FULL, short, sharding=by_ddp(2, UNITS), device=GPU, **settings)
    assert (found.activations, found.gradients) == (0, 2 * 13_600)
    divided = add_up(FULL, short, sharding=by_fsdp(4, UNITS), device=GPU, **settings)
    assert divided.activations == 50 and divided.weights == 3400 + 9600, "layers in flight are more than the share of a step"


def test_units_are_those_of_a_model():
    module = nn.Module()
    module.head = nn.Linear(10, 40, bias=False)
    module.layers = nn.ModuleList([nn.Linear(25, 40, bias=False) for _ in range(3)])
    module.layers[1] = nn.Linear(25, 44, bias=False)
    assert units_of(module, module.layers) == Units(4400, 1600, 14_000, 4400, 1600, 14_000, 0)
    module.layers[1].weight.requires_grad = False
    assert units_of(module, module.layers, a_frozen=0.5, small=400) == Units(4000, 1600, 10_150, 4000, 1600, 9600, 1600)
