"""hone export on a tiny model, as a user calls it."""

from __future__ import annotations

import json

from tests.runs import write_run

from hone import log
from hone.cli import main


def test_export_prints_folder_size_and_parity(tiny_model_dir, tmp_path, capsys) -> None:
    out = tmp_path / "merged"
    (tmp_path / "run.yaml").write_text(f"model_name_or_path: {tiny_model_dir}\nexport_dir: {out}\nexport_size: 1\n")
    assert main(["export", str(tmp_path / "run.yaml"), "infer_dtype=bfloat16"]) == 0
    shown = capsys.readouterr().out
    assert str(out) in shown and "0.1 MB, bfloat16" in shown and "parity passed (bfloat16)" in shown
    assert json.loads((out / "export_report.json").read_text())["files"] == ["model.safetensors"]
    assert main(["chat", str(tmp_path / "run.yaml"), f"model_name_or_path={out}", "--ask", "Hi", "max_new_tokens=5"]) == 0


def test_export_without_a_folder_or_over_other_files_is_refused(tiny_model_dir, tmp_path, capsys) -> None:
    (tmp_path / "run.yaml").write_text(f"model_name_or_path: {tiny_model_dir}\n")
    assert main(["export", str(tmp_path / "run.yaml")]) != 0
    assert "export_dir" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    assert main(["export", str(tmp_path / "run.yaml"), f"export_dir={tmp_path / 'full'}"]) == 2
    assert "notes.txt" in capsys.readouterr().err


def test_a_template_other_than_the_one_it_was_trained_with_is_told_in_use(tiny_run, tmp_path, capsys) -> None:
    settings = {**tiny_run, "max_steps": 2, "warmup_steps": 0, "template": "chatml"}
    assert main(["train", str(write_run(settings, tmp_path / "run.yaml"))]) == 0
    folder = tiny_run["output_dir"]
    use = [f"model_name_or_path={tiny_run['model_name_or_path']}", f"adapter_name_or_path={folder}", "finetuning_type=lora"]
    said = f"note: template: vicuna here, and {folder} was trained with chatml"
    for verb, *more in (("export", f"export_dir={tmp_path / 'merged'}"), ("chat", "--ask", "Hi", "max_new_tokens=2")):
        capsys.readouterr()
        assert main([verb, *use, *more, "template=vicuna"]) == 0
        assert said in capsys.readouterr().err
        assert main([verb, *use, *more, "template=chatml"]) == 0
        assert "was trained with" not in capsys.readouterr().err


def test_positions_are_stretched_for_the_length_of_the_training(tiny_model_dir, tmp_path, capsys) -> None:
    out = tmp_path / "merged"
    settings = f"model_name_or_path: {tiny_model_dir}\nexport_dir: {out}\nrope_scaling: linear\ncutoff_len: 1500\n"
    (tmp_path / "run.yaml").write_text(settings)
    assert main(["export", str(tmp_path / "run.yaml")]) == 0
    assert json.loads((out / "config.json").read_text())["rope_parameters"]["factor"] == 3.0
    log._said.clear()
    assert main(["chat", str(tmp_path / "run.yaml"), "--ask", "Hi", "max_new_tokens=2"]) == 0
    assert "512 positions become 1536" in capsys.readouterr().err
