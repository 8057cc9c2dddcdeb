"""Loading: overrides, other words for keys, the typed tree, and every mistake at once with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hone.config import load, read, to_yaml
from hone.config.run import Run
from hone.errors import ConfigError, Mistake

BASE = {"model_name_or_path": "m", "output_dir": "o", "dataset": "d"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("ALLOW_EXTRA_ARGS", "USE_RAY", "NNODES", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def words(**settings: object) -> list[str]:
    return [f"{key}={value}" for key, value in {**BASE, **settings}.items() if value is not ...]


def good(**settings: object) -> Run:
    return read(words(**settings), "train").run


def bad(verb: str = "train", **settings: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(words(**settings), verb)
    assert len({mistake.key for mistake in caught.value.mistakes}) == len(caught.value.mistakes)
    return {mistake.key: mistake.message for mistake in caught.value.mistakes}


def file_with(tmp_path: Path, text: str, name: str = "run.yaml") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def mistakes_of(arguments: list[str], verb: str = "train") -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        read(arguments, verb)
    return caught.value.mistakes


def test_defaults_are_llama_factorys():
    run = good()
    assert (run.train.per_device_train_batch_size, run.optimizer.learning_rate, run.train.num_train_epochs) == (8, 5e-5, 3.0)
    assert (run.train.logging_steps, run.train.save_steps, run.train.seed, run.train.max_grad_norm) == (500, 500, 42, 1.0)
    assert (run.adapter.kind, run.adapter.lora_rank, run.adapter.lora_alpha) == ("lora", 8, None)
    assert run.objective.kind == "sft" and run.optimizer.lr_scheduler_type == "linear" and run.data.cutoff_len == 2048
    assert run.train.gradient_checkpointing == "auto" and run.parallel.ddp_timeout == 1800 and run.train.do_train
    assert (run.generate.temperature, run.generate.top_p, run.generate.max_new_tokens) == (0.95, 0.7, 1024)


def test_a_run_cannot_be_changed():
    with pytest.raises(ValidationError):
        good().train.seed = 1


@pytest.mark.parametrize(
    ("settings", "section", "name", "value"),
    [
        ({"learning_rate": "1e-4"}, "optimizer", "learning_rate", 1e-4),
        ({"max_steps": "1e3"}, "train", "max_steps", 1000),
        ({"max_steps": "10.0"}, "train", "max_steps", 10),
        ({"bf16": "yes"}, "train", "bf16", True),
        ({"bf16": "True"}, "train", "bf16", True),
        ({"dataset": "a, b,c"}, "data", "dataset", ("a", "b", "c")),
        ({"dataset": "[a, b]"}, "data", "dataset", ("a", "b")),
        ({"dataset": "2024"}, "data", "dataset", ("2024",)),
        ({"output_dir": "0123"}, "train", "output_dir", "0123"),
        ({"run_name": "no"}, "track", "run_name", "no"),
        ({"report_to": "none"}, "track", "report_to", ()),
        ({"report_to": ""}, "track", "report_to", ()),
        ({"report_to": "[wandb, tensorboard]"}, "track", "report_to", ("wandb", "tensorboard")),
        ({"save_strategy": "off"}, "train", "save_strategy", "no"),
        ({"flash_attn": "off"}, "model", "flash_attn", "disabled"),
        ({"flash_attn": "flash_attention_2"}, "model", "flash_attn", "fa2"),
        ({"optim": "adamw_hf"}, "optimizer", "kind", "adamw_torch"),
        ({"dataset_dir": "{x: {file_name: x.json}}"}, "data", "dataset_dir", {"x": {"file_name": "x.json"}}),
        ({"dataset_dir": "ONLINE"}, "data", "dataset_dir", "ONLINE"),
        ({"lr_scheduler_kwargs": '{"min_lr": 1e-6}'}, "optimizer", "lr_scheduler_kwargs", {"min_lr": 1e-6}),
        ({"lr_scheduler_kwargs.min_lr": "1e-6"}, "optimizer", "lr_scheduler_kwargs", {"min_lr": 1e-6}),
        ({"resume_from_checkpoint": "true"}, "train", "resume_from_checkpoint", True),
        ({"resume_from_checkpoint": "o/checkpoint-5"}, "train", "resume_from_checkpoint", "o/checkpoint-5"),
        ({"enable_thinking": "null"}, "chat", "enable_thinking", None),
        ({"default_system": "Hello: you, #1"}, "chat", "default_system", "Hello: you, #1"),
        ({"train.max_steps": "7"}, "train", "max_steps", 7),
        ({"optimizer.kind": "sgd"}, "optimizer", "kind", "sgd"),
        ({"quantization_bit": "4.0"}, "model", "quantization", None),
    ],
)
def test_values_become_their_knobs_types(settings: dict, section: str, name: str, value: object):
    found = vars(vars(good(**settings))[section])[name]
    if name == "quantization":
        assert found.bit == 4 and found.double
    else:
        assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("settings", "section", "name", "value"),
    [
        ({"evaluation_strategy": "steps", "val_size": 0.1}, "train", "eval_strategy", "steps"),
        ({"per_gpu_train_batch_size": 2}, "train", "per_device_train_batch_size", 2),
        ({"disable_gradient_checkpointing": "true"}, "train", "gradient_checkpointing", False),
        ({"gradient_checkpointing": "false"}, "train", "gradient_checkpointing", False),
        ({"no_cuda": "true"}, "train", "use_cpu", True),
        ({"enable_liger_kernel": "true"}, "train", "fused_kernels", True),
        ({"use_liger_kernel": "false"}, "train", "fused_kernels", "auto"),
        ({"neat_packing": "true"}, "data", "packing", True),
        ({"adafactor": "true"}, "optimizer", "kind", "adafactor"),
        ({"report_to": "wandb", "use_swanlab": "true"}, "track", "report_to", ("wandb", "swanlab")),
        ({"train_sampling_strategy": "sequential"}, "train", "disable_shuffling", True),
        ({"add_tokens": "<a>"}, "model", "resize_vocab", True),
    ],
)
def test_other_words_for_a_setting(settings: dict, section: str, name: str, value: object):
    assert vars(vars(good(**settings))[section])[name] == value


def test_the_command_line_wins_over_the_file(tmp_path: Path):
    path = file_with(
        tmp_path, "evaluation_strategy: steps\ndisable_gradient_checkpointing: true\nuse_swanlab: true\nval_size: 0.1\n"
    )
    run = read([path, *words(), "eval_strategy=epoch", "gradient_checkpointing=true", "use_swanlab=false"], "train").run
    assert run.train.eval_strategy == "epoch" and run.train.gradient_checkpointing and run.track.report_to == ()
    path = file_with(tmp_path, "lr_scheduler_kwargs: {min_lr: 1e-5, num_cycles: 1}\nuse_galore: true\n")
    run = read([path, *words(), "lr_scheduler_kwargs.min_lr=2e-5", "use_galore=false"], "train").run
    assert run.optimizer.lr_scheduler_kwargs == {"min_lr": 2e-5, "num_cycles": 1}


def test_a_key_given_twice_on_the_command_line_is_a_mistake_unless_it_says_the_same():
    with pytest.raises(ConfigError, match="command line: lora_rank: this key stands twice, with 8 and 16; remove one"):
        load(["model_name_or_path=m", "lora_rank=8", "--lora-rank", "16"], "chat")
    load(["model_name_or_path=m", "lora_rank=8", "lora_rank=8"], "chat")


def test_every_mistake_at_once_each_with_its_line(tmp_path: Path):
    text = "model_name_or_path: m\nlerning_rate: 1e-4\ncutoff_len: many\nstage: sfft\ndouble_quantization: false\n"
    text += "use_galore: true\nlora_rank: 0\noutput_dir: o\nmax_steps: 1.5\nbf16: [1]\n"
    path = file_with(tmp_path, text)
    found = mistakes_of([path, "seed=-1", "dataste=d"])
    assert [(mistake.where, mistake.key) for mistake in found] == [
        (f"{path}:2", "lerning_rate"),
        (f"{path}:3", "cutoff_len"),
        (f"{path}:4", "stage"),
        (f"{path}:5", "double_quantization"),
        (f"{path}:6", "use_galore"),
        (f"{path}:7", "lora_rank"),
        (f"{path}:9", "max_steps"),
        (f"{path}:10", "bf16"),
        ("command line", "seed"),
        ("command line", "dataste"),
        (path, "dataset"),
    ]
    messages = {mistake.key: mistake.message for mistake in found}
    assert 'did you mean "learning_rate"' in messages["lerning_rate"]
    assert messages["cutoff_len"] == 'saw "many", wanted a whole number above 0'
    assert messages["stage"].startswith('saw "sfft", wanted one of sft, pt, ')
    assert messages["stage"].endswith('(did you mean "sft"?)')
    assert messages["lora_rank"] == "saw 0, wanted a whole number above 0"
    assert messages["max_steps"] == "saw 1.5, wanted a whole number, -1 or more"
    assert "saw a list [1], wanted true or false" in messages["bf16"]


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ({"report_to": "all"}, "report_to", "write the ones you want"),
        ({"report_to": "wandb,trackio"}, "report_to", "Trackio is not in this version"),
        ({"infer_backend": "ktransformers"}, "infer_backend", "write infer_backend: huggingface"),
        ({"vllm_maxlen": "100"}, "vllm_maxlen", "without infer_backend: vllm"),
        ({"infer_key": "secret"}, "infer_key", "without infer_url"),
        ({"quantization_method": "hqq"}, "quantization_method", "HQQ"),
        ({"quantization_bit": "3"}, "quantization_bit", "write quantization_bit: 4"),
        ({"deepspeed": "ds.json"}, "deepspeed", "ds.json cannot be read: No such file or directory; name DeepSpeed's JSON file"),
        ({"galore_rank": "2"}, "galore_rank", "not in this version"),
        ({"video_resolution": "10"}, "video_resolution", "video"),
        ({"use_fast_tokenizer": "false"}, "use_fast_tokenizer", "leave it out"),
        ({"average_tokens_across_devices": "false"}, "average_tokens_across_devices", "always the mean over the trained tokens"),
        ({"crop_to_patches": "true"}, "crop_to_patches", "raise image_max_pixels"),
        ({"save_safetensors": "off"}, "save_safetensors", "always saved as safetensors"),
        ({"temperature": "0.0"}, "temperature", "write do_sample: false"),
        ({"learning_rate": "nan"}, "learning_rate", 'saw "nan", wanted a number above 0'),
        ({"learning_rate": ".inf"}, "learning_rate", "saw .inf, wanted a number above 0"),
        ({"learning_rate": ""}, "learning_rate", "saw nothing"),
        ({"learning_rate": "true"}, "learning_rate", "saw true, wanted a number"),
        ({"lora_dropout": "1"}, "lora_dropout", "wanted a number, 0 or more and below 1"),
        ({"lr_scheduler_kwargs": "[1]"}, "lr_scheduler_kwargs", "wanted a mapping"),
        ({"train.max_stepz": "1"}, "train.max_stepz", 'did you mean "train.max_steps"'),
        ({"neat_packing": "maybe"}, "neat_packing", "wanted one of false, true"),
        ({"fused_kernels": "maybe"}, "fused_kernels", "wanted true or false or auto"),
        ({"model_name_or_path": ...}, "model_name_or_path", "is missing"),
        ({"output_dir": ...}, "output_dir", "is missing"),
        ({"dataset": ...}, "dataset", "is missing"),
        ({"do_train": "false"}, "do_train", "nothing to do"),
    ],
)
def test_one_mistake_says_what_to_write(settings: dict, key: str, said: str):
    found = bad(**settings)
    assert list(found) == [key] and said in found[key]


def test_asking_for_nothing_is_accepted():
    for text in (
        "use_galore=false",
        "deepspeed=null",
        "fsdp=",
        "report_to=none",
        "pref_beta=0.1",
        "galore_scale=2",
        "fp8=off",
        "use_fast_tokenizer=true",
    ):
        assert read([*words(), text], "train").notes == ()


def test_keys_that_have_nothing_to_do_are_said_once(capsys: pytest.CaptureFixture[str]):
    arguments = [*words(dataloader_pin_memory="false", group_by_length="true", remove_unused_columns="true"), "max_steps=3"]
    notes = read([*arguments, "num_train_epochs=1"], "train").notes
    assert len(notes) == 3 and all("nothing to do here: " in note or "nothing to do here" in note for note in notes)
    load(arguments, "train")
    assert capsys.readouterr().err.count("note: ") == 2


@pytest.mark.parametrize("key", ["output_dir", "dataset", "seed", "infer_dtype", "dataset_dir", "lr_scheduler_kwargs"])
def test_an_option_without_a_value_is_true_and_nothing_else(key: str):
    assert read([*words(), "--bf16", "--resume_from_checkpoint"], "train").run.train.bf16
    assert "saw no value after it" in {one.key: one.message for one in mistakes_of([*words(), f"--{key}"])}[key]


def test_special_tokens_in_text_are_always_split():
    assert read([*words(split_special_tokens="false")], "train").notes == ()
    (note,) = read([*words(split_special_tokens="true")], "train").notes
    assert note.startswith("split_special_tokens has nothing to do here: ") and "plain text" in note


def test_unknown_keys_become_notes_where_the_environment_allows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    loaded = read([*words(), "colour=red"], "train")
    assert loaded.notes == ("colour is unknown and left out, as ALLOW_EXTRA_ARGS says",)


def test_what_the_environment_asks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("USE_MCA", "1")
    monkeypatch.setenv("NNODES", "two")
    found = {mistake.key: mistake for mistake in mistakes_of(words())}
    assert "unset it" in found["USE_MCA"].message and found["NNODES"].message == 'saw "two", wanted a whole number'
    assert found["NNODES"].where == "environment"


def test_one_file_serves_every_command(tmp_path: Path):
    path = file_with(
        tmp_path,
        "model_name_or_path: m\noutput_dir: o\ndataset: d\nlearning_rate: 1e-4\ntemperature: 0.5\nexport_dir: e\n"
        "export_size: 2\n",
    )
    assert read([path], "train").run == read([path], "check").run
    for verb in ("chat", "api", "export", "convert"):
        run = read([path], verb).run
        assert run.generate.temperature == 0.5 and run.optimizer.learning_rate == 1e-4 and run.export.export_size == 2
    assert [mistake.key for mistake in mistakes_of(["model_name_or_path=m"], "export")] == ["export_dir"]


def test_a_saved_run_loads_again_without_its_secrets(tmp_path: Path):
    settings = {"hf_hub_token": "hf_abc", "quantization_bit": 8, "stage": "pt", "add_special_tokens": '["<a>", " b,c"]'}
    del settings["quantization_bit"]
    run = good(**settings, default_system="  two\nlines: #1 ", lr_scheduler_kwargs="{a: 1e-6}", eval_dataset="x")
    text = to_yaml(run)
    assert "hf_abc" not in text and "hf_abc" not in repr(run)
    again = read([file_with(tmp_path, text)], "train").run
    assert again == run.model_copy(update={"model": run.model.model_copy(update={"hf_hub_token": None})})
    assert again.model.add_special_tokens == ("<a>", " b,c") and again.objective.kind == "pretrain"


def test_the_tree_has_lines_and_takes_overrides(tmp_path: Path):
    path = file_with(
        tmp_path, "model:\n  model_name_or_path: m\n  quantization:\n    bit: 3\ntrain:\n  ouput_dir: o\ndata: {dataset: d}\n"
    )
    found = mistakes_of([path])
    assert [(mistake.where, mistake.key) for mistake in found] == [
        (f"{path}:4", "model.quantization.bit"),
        (f"{path}:6", "train.ouput_dir"),
        (path, "output_dir"),
    ]
    (mistake,) = mistakes_of([*words(), "model.quantization=4"])
    assert mistake.message.startswith("saw 4, wanted a mapping")
    path = file_with(tmp_path, to_yaml(good(quantization_bit=4)))
    assert read([path], "train").run.model.quantization.bit == 4
    assert read([path, "model.quantization=null"], "train").run.model.quantization is None
    path = file_with(tmp_path, "model: {model_name_or_path: m}\nadapter: {kind: full}\n")
    assert read([path, "output_dir=o", "dataset=d", "adapter.kind=freeze"], "train").run.adapter.kind == "freeze"


def test_two_words_for_one_key_must_agree(tmp_path: Path):
    text = "model_name_or_path: m\noutput_dir: o\ndataset: d\nval_size: 0.1\neval_strategy: steps\nevaluation_strategy: "
    assert read([file_with(tmp_path, text + "steps\n")], "train").run.train.eval_strategy == "steps"
    assert "another word for eval_strategy" in mistakes_of([file_with(tmp_path, text + "epoch\n")])[0].message
    text = (
        "model_name_or_path: m\noutput_dir: o\ndataset: d\ngradient_checkpointing: true\ndisable_gradient_checkpointing: true\n"
    )
    assert "contradicts gradient_checkpointing" in mistakes_of([file_with(tmp_path, text)])[0].message


def test_a_file_that_is_not_there():
    (mistake,) = mistakes_of(["none.yaml", "seed=x"])
    assert (mistake.where, mistake.message) == ("none.yaml", "there is no such file")


def test_what_was_left_out_with_a_meaning_stays_left_out(tmp_path: Path):
    for said in ({}, {"enable_thinking": "true"}):
        text = to_yaml(good(**said))
        assert ("enable_thinking: true" in text) == bool(said)
        chat = read([file_with(tmp_path, text)], "train").run.chat
        assert chat.enable_thinking is True and ("enable_thinking" in chat.model_fields_set) == bool(said)
