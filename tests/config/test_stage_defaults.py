"""A stage may have defaults of its own, and words of other programs for its settings."""

from __future__ import annotations

from hone.config import read, to_yaml

BASE = "model_name_or_path=m output_dir=o dataset=d stage=grpo reward_funcs=numeric".split()


def test_grpo_draws_from_the_whole_distribution() -> None:
    drawn = read(BASE, "train").run.generate
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens) == (1.0, 1.0, 0, 256)


def test_what_is_written_holds() -> None:
    drawn = read([*BASE, "temperature=0.7", "top_k=20", "max_completion_length=64"], "train").run.generate
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens) == (0.7, 1.0, 20, 64)


def test_other_stages_keep_the_defaults_of_an_answer() -> None:
    drawn = read(["model_name_or_path=m", "output_dir=o", "dataset=d"], "train").run.generate
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens) == (0.95, 0.7, 50, 1024)


def test_words_of_trl() -> None:
    for word, scale in (("true", "group"), ("false", "none"), ("batch", "batch")):
        assert read([*BASE, f"scale_rewards={word}"], "train").run.objective.scale_rewards == scale
    assert not read([*BASE, "vllm_importance_sampling_correction=false"], "train").run.objective.importance_sampling_correction


def test_the_resolved_settings_read_back_the_same(tmp_path) -> None:
    several = [*BASE[:-1], "reward_funcs=numeric,r.py:f", "reward_weights=1,0.5"]
    run = read([*several, "epsilon_high=0.28"], "train").run
    (tmp_path / "run.yaml").write_text(to_yaml(run))
    assert read([str(tmp_path / "run.yaml")], "train").run == run
