"""What one process holds under each engine, counted by hand: a model of 3 layers of 1,000 weights and 400 outside of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import get_args

import torch
from torch import nn

from hone.config import load
from hone.training.planning.flow import Unit, Where
from hone.training.planning.memory import Memory, Weights, add_up
from hone.training.planning.sharding import (
    ALONE,
    Buffers,
    Sharding,
    Units,
    Weighed,
    alone,
    by_ddp,
    by_fsdp,
    by_zero,
    most_owned,
    units_of,
    weighed,
)
from hone.training.planning.spread import hand_out, sharding_of_run
from tests.families import tiny

WORDS = {"model_name_or_path": "x", "stage": "sft", "dataset": "x", "output_dir": "o", "finetuning_type": "full", "use_cpu": True}
GPU, CPU = torch.device("cuda"), torch.device("cpu")
FULL = Weights(num=3400, num_trained=3400, frozen=0, trained=13_600, largest=1600, states=27_200, beside=False)
LAYER, OUTSIDE = Unit(4000, 0, 4000, 4000, 4000), Unit(1600, 0, 1600, 1600, 1600)
UNITS = Units((LAYER,) * 3, OUTSIDE)
WEIGHED = Weighed(layers=(1000,) * 3, standing=150, largest=500, trained=(250, *[500] * 6, 150))
PASS = {"activations": 50_000, "logits": 700, "gradients": 8000, "host": 0, "gathered": 900, "landed": 600}
BUFFERS = Buffers(reduced=100, buckets=2, fetched=70)


def held(weights: Weights, sharding: Sharding, found: dict[str, int] = PASS, *, device: torch.device = GPU, **changes) -> Memory:
    settings = {"formed": 0, "optimizer": "adamw_torch_fused", "recomputes": False, "half": False}
    return add_up(weights, found, sharding=sharding, device=device, **{**settings, **changes})


def parts(memory: Memory) -> tuple[int, ...]:
    return memory.weights, memory.adapters, memory.gradients, memory.optimizer


def test_ddp_holds_everything_and_its_gradients_once_more():
    one, two = alone(UNITS, several=False), by_ddp(UNITS, several=True)
    assert one == ALONE and one.flow.beside("backward", 1, 300, 4000) == (0, 300, 4000)
    assert two.flow.beside("backward", 1, 300, 4000) == (0, 300 + 13_600, 4000 + 13_600), "buckets, and the micro-batches before"
    assert parts(held(FULL, two)) == (13_600 + 900, 0, 8000 + 600, 27_200)
    assert two.kept == 13_600


def test_fsdp_gathers_one_unit_while_another_is_used():
    flow = by_fsdp(4, UNITS).flow
    gathered = {where: flow.beside(where, 1, 0, 0)[0] for where in get_args(Where)}
    two = 1600 + 4000 + 4000
    assert gathered == {
        "start": 3200, "first": 3200, "between": two, "forward": two, "head": 5600, "turn": 5600, "head_backward": 5600,
        "arriving": two, "backward": two, "leaving": 5600, "last": 1600, "end": 0,
    }  # fmt: skip
    assert flow.beside("between", 0, 0, 0)[0] == 2 * 1600 + 4000, "the row that all else came in is still there"
    assert flow.beside("backward", 0, 0, 0)[0] == 1600 + 4000, "there is no layer below"
    assert by_fsdp(4, UNITS, copies=1).flow.beside("between", 1, 0, 0)[0] == two + 4000, "gloo gathers into a copy"
    assert by_fsdp(4, UNITS, ahead=True).flow.beside("forward", 1, 0, 0)[0] == two + 4000


def test_fsdp_that_lets_no_layer_go_has_them_all_when_it_turns():
    flow = by_fsdp(4, UNITS, reshards=False).flow
    places = [("forward", 0), ("forward", 2), ("head", 2), ("turn", 2), ("backward", 2), ("leaving", 2), ("backward", 0)]
    rows = [4000, 4000, 4000, 0, 0, 0, 0]
    assert [flow.beside(*place, 0, 0)[0] - 1600 for place in places] == [
        row + number * 4000 for row, number in zip(rows, (1, 3, 3, 3, 3, 2, 1), strict=True)
    ]


def test_fsdp_lays_a_layers_gradients_end_to_end_and_keeps_a_share():
    flow = by_fsdp(4, UNITS).flow
    assert flow.beside("backward", 2, 70, 0)[1:] == (70, 0)
    assert flow.beside("leaving", 2, 4000, 0)[1:] == (8000, 0)
    assert flow.beside("backward", 1, 70, 4000)[1:] == (70 + 4000, 1000), "the row of the layer above, and its share"
    assert flow.beside("end", 0, 1600, 12_000)[1:] == (3200, 3000)
    copied = by_fsdp(4, UNITS, copies=1).flow
    assert copied.beside("leaving", 2, 4000, 0)[1] == 2 * 4000 + 1000, "gloo sums up a copy of the row, beside the share"


def test_fsdp_sends_16_bits_and_sums_up_in_32():
    half = Unit(whole=2000, cast=2000, trained=4000, gradient=2000, summed=4000)
    flow = by_fsdp(4, Units((half,) * 3, OUTSIDE)).flow
    assert flow.beside("between", 1, 0, 0)[0] == 1600 + 2000 + 2000 + 500, "and the share in 16 bits, before it is sent"
    assert flow.beside("leaving", 2, 2000, 0)[1] == 4000 + 2000, "beside the row"
    assert by_fsdp(1, Units((half,) * 3, OUTSIDE)).flow.beside("leaving", 2, 2000, 0)[1] == 2 * 4000, "the row, and the sums"
    assert flow.beside("backward", 1, 0, 0)[1:] == (4000, 1000)


def test_fsdp_holds_gradients_of_the_micro_batches_before_in_shares_or_where_few_learn_whole():
    every = 4 * 3400
    shares = by_fsdp(4, UNITS, several=True).flow
    assert shares.beside("forward", 0, 0, 0)[2] == shares.beside("end", 0, 0, 0)[2] == every // 4
    waits = by_fsdp(4, UNITS, several=True, waits=True).flow
    assert waits.beside("forward", 0, 0, 0)[2] == every
    assert waits.beside("backward", 1, 0, 0)[2] == every - 4000 + 1000


def test_shares_that_are_offloaded_rest_in_the_host_and_what_is_on_its_way_does_not():
    found = held(FULL, by_fsdp(4, UNITS, offloads=True))
    assert parts(found) == (900, 0, 8000, 0) and found.host == 3400 + 600 + 6800
    assert found.total == sum(asdict(found).values()) - found.host
    assert held(FULL, by_fsdp(4, UNITS, offloads=True), device=CPU).host == 0, "there the device is the host"


def test_zero_divides_states_then_gradients_then_weights():
    """bf16: 2 bytes a weight and a gradient, 4 of a master and 8 of moments."""
    one, two, three = (by_zero(stage, 4, WEIGHED, half=True, buffers=BUFFERS) for stage in (1, 2, 3))
    states = (27_200 + 4 * 3400) // 4
    assert [parts(held(FULL, each)) for each in (one, two, three)] == [
        (6800 + 900, 0, 8600, states), (6800 + 900, 0, 8600, states), (1700 + 900, 0, 8600, states)
    ]  # fmt: skip
    assert one.kept == two.kept == three.kept == (2 + 4) * 850, "the share laid end to end, and then in fp32"
    assert by_zero(2, 4, WEIGHED, half=False, buffers=BUFFERS).kept == 4 * 850


def test_zero_1_has_whole_gradients_until_the_end_and_zero_2_the_largest_alone():
    one, two = (by_zero(stage, 4, WEIGHED, half=False, buffers=BUFFERS, several=True).flow for stage in (1, 2))
    bucket, part = 2 * 100 * 4, 4 * 1500  # the third of four parts has something of three weights of 500
    assert one.adds_up and one.beside("forward", 1, 0, 0) == (0, 0, 13_600)
    assert one.beside("backward", 1, 900, 4000) == (0, 900 + bucket, 13_600 + 4000)
    assert one.beside("end", 0, 900, 12_000) == (0, 900 + bucket, 13_600 + 12_000 + part)
    assert not two.adds_up and two.beside("forward", 1, 0, 0) == (0, 0, part)
    assert two.beside("backward", 1, 9000, 4000) == (0, 2000 + bucket, 2 * part)


def test_a_part_has_whole_weights_that_lie_in_it_in_part():
    assert most_owned([4, 4], 2) == 4
    assert most_owned([3, 4, 1], 2) == 7, "cut in the middle of the second"
    assert most_owned([8], 4) == 8


def test_zero_3_fetches_what_is_used_and_some_ahead():
    flow = by_zero(3, 4, WEIGHED, half=True, buffers=BUFFERS, on_cpu=True).flow
    gathered = {where: flow.beside(where, 0, 0, 0)[0] for where in ("start", "forward", "head", "backward", "end")}
    always, ahead = 2 * 150, 2 * 500
    assert gathered == {
        "start": always, "forward": always + 2 * ahead, "head": always + ahead, "backward": always + 2000 + ahead, "end": always
    }  # fmt: skip
    many = by_zero(3, 4, WEIGHED, half=True, buffers=replace(BUFFERS, fetched=400)).flow
    assert many.beside("head", 0, 0, 0)[0] == always + 2 * 2 * 400, "several lie in a row of their own first"
    assert flow.beside("forward", 0, 0, 0)[1:] == (200, 2 * 850), "one bucket and the share are there for good"
    assert flow.beside("backward", 0, 9000, 0)[1] == 200 + 2 * 1000, "gloo sums up a copy"


def test_zero_is_planned_by_the_sizes_that_deepspeed_is_given(tmp_path):
    """A width of 32: buckets of 1,024 numbers where they are left to auto, two of them where sending overlaps."""

    def planned(**fields):
        (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": fields}))
        words = ["model_name_or_path=x", "stage=sft", "dataset=x", "output_dir=o", f"deepspeed={tmp_path / 'ds.json'}"]
        run = load([*words, "finetuning_type=full", "use_cpu=true"], "train")
        return sharding_of_run(run, module, 4, device=GPU)

    module = tiny("llama")
    weights = weighed(module, module.model.layers, head=module.lm_head, small=100_000)
    assert planned(stage=1, reduce_bucket_size="auto") == by_zero(1, 4, weights, half=False, buffers=Buffers(reduced=1024))
    two = planned(stage=2, reduce_bucket_size=7, overlap_comm=True, offload_optimizer={"device": "cpu"})
    assert two == by_zero(2, 4, weights, half=False, buffers=Buffers(7, 2), offloaded=["optimizer"])
    three = planned(
        stage=3, reduce_bucket_size="auto", stage3_param_persistence_threshold="auto",
        stage3_prefetch_bucket_size=9, offload_param={"device": "cpu"},
    )  # fmt: skip
    few = weighed(module, module.model.layers, head=module.lm_head, small=320)
    assert three == by_zero(3, 4, few, half=False, buffers=Buffers(1024, 2, 9, 320), offloaded=["weights"])
    small = sum(one.numel() for one in module.parameters() if one.numel() <= 320)
    assert few.standing == small + module.lm_head.weight.numel() and three.offloaded == {"weights", "adapters"}


def test_zero_offloads_what_it_is_told():
    """With the optimizer go its gradients in fp32 and the new weights in 16 bits; two of the largest gradient are for the way."""
    optimizer = held(FULL, by_zero(2, 4, WEIGHED, half=True, buffers=BUFFERS, offloaded=["optimizer"]))
    assert parts(optimizer)[3] == 0 and optimizer.host == (27_200 + (4 + 4 + 2) * 3400) // 4 + 2 * 1000
    both = held(FULL, by_zero(3, 4, WEIGHED, half=True, buffers=BUFFERS, offloaded=["optimizer", "weights"]))
    assert parts(both)[0] == 900 and both.host == (27_200 + 4 * 3400) // 4 + 1700


def test_the_optimizers_step_is_the_most_where_a_pass_is_short():
    short = {"activations": 50, "logits": 7, "gradients": 3, "host": 0, "gathered": 90, "landed": 60}
    found = held(FULL, by_ddp(UNITS, several=False), short)
    assert (found.weights, found.activations, found.gradients) == (13_600, 0, 2 * 13_600)
    divided = held(FULL, by_fsdp(4, UNITS), {**short, "gathered": 9600})
    assert divided.activations == 50 and divided.weights == 3400 + 9600, "layers in flight are more than the share of a step"


def test_layers_are_handed_their_weights_as_their_engine_sends_them():
    def types(**changes):
        run = load([f"{key}={value}" for key, value in {**WORDS, **changes}.items()], "train")
        hand_out(run, module := tiny("llama"))
        return module.model.layers[0].self_attn.q_proj.weight.dtype, module.lm_head.weight.dtype

    assert types(bf16=True) == types(fsdp="true") == (torch.float32, torch.float32)
    assert types(bf16=True, fsdp="true") == (torch.bfloat16, torch.float32)
    assert types(bf16=True, deepspeed='{"zero_optimization": {"stage": 2}}') == (torch.bfloat16, torch.bfloat16)


def test_units_are_those_of_a_model():
    module = nn.Module()
    module.head = nn.Linear(10, 40, bias=False)
    module.layers = nn.ModuleList([nn.Linear(25, 40, bias=False) for _ in range(3)])
    module.layers[1] = nn.Linear(25, 44, bias=False)
    small, large = LAYER, Unit(4400, 0, 4400, 4400, 4400)
    assert units_of(module, module.layers) == Units((small, large, small), OUTSIDE) and UNITS.trained == 13_600
    module.layers[1].weight.requires_grad = False
    half = Unit(whole=2000, cast=2000, trained=4000, gradient=2000, summed=4000)
    found = units_of(module, module.layers, width=2, summed=4)
    assert found == Units((half, Unit(whole=2200, cast=2200), half), OUTSIDE)
    assert units_of(module, module.layers, a_frozen=0.5).layers[1] == Unit(whole=550)
    assert weighed(module, module.layers, head=module.head, small=1000) == Weighed((0, 1100, 0), 2400, 1100, (400, 1000, 1000))
