"""What of a base is not packed into few bits is told."""

from __future__ import annotations

from hone.models.quantize import tell_whole
from tests.families import tiny


def test_fused_experts_are_told_to_stay_as_they_are(capsys):
    experts = tiny("mixtral")
    weights = dict(experts.named_parameters())
    fused = sum(weight.numel() for path, weight in weights.items() if "experts" in path)
    assert fused > sum(weight.numel() for weight in weights.values()) / 4
    tell_whole(experts)
    assert f"the experts' fused weights, {fused:,} of" in capsys.readouterr().err
    tell_whole(tiny("llama"))
    assert not capsys.readouterr().err
