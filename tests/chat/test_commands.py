"""hone render and hone laws as a user types them."""

from __future__ import annotations

import io
import json

import pytest

from hone.cli import main

CHAT = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Yes"}]}


@pytest.mark.parametrize("template", [[], ["--template", "qwen3_nothink"], ["--template=chatml", "tool_format=qwen"]])
def test_render_prints_text_ids_labels_and_prompt(template, tiny_tokenizer_dir, tiny_tokenizer, tmp_path, capsys):
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(CHAT))
    assert main(["render", *template, "--tokenizer", str(tiny_tokenizer_dir), str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"text", "ids", "labels", "prompt_ids"}
    assert tiny_tokenizer.decode(found["ids"]) == found["text"]
    assert found["ids"][: len(found["prompt_ids"])] == found["prompt_ids"]
    assert tiny_tokenizer.decode([label for label in found["labels"] if label != -100]) == "Yes<|im_end|>"
    assert found["labels"][len(found["prompt_ids"])] != -100


def test_render_reads_standard_input_and_asks_for_the_answer_to_come(tiny_tokenizer_dir, tiny_tokenizer, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"messages": CHAT["messages"][:1]})))
    assert main(["render", "--tokenizer", str(tiny_tokenizer_dir), "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tiny_tokenizer.decode(found["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert set(found["labels"]) == {-100}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"messages": [\n{"role"', "chat.json:2: not JSON"),
        ("[]", "is wanted, not list"),
        ('{"message": []}', 'no "messages"; it has message'),
        ('{"messages": []}', "messages is empty"),
        ('{"messages": [{"role": "usr", "content": ""}]}', 'did you mean "user"'),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": [3]}', r"tools[0] must be an object"),
    ],
)
def test_a_file_that_is_wrong_is_named(text, words, tiny_tokenizer_dir, tmp_path, capsys):
    file = tmp_path / "chat.json"
    file.write_text(text)
    assert main(["render", "--tokenizer", str(tiny_tokenizer_dir), str(file)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name one file"),
        (["x.json"], "name the tokenizer's folder"),
        (["--tokenizer"], "needs a value"),
        (["--tokenizr", "x", "y"], 'did you mean "tokenizer"'),
        (["--tokenizer", "t", "enable_thinking=maybe", "x.json"], "enable_thinking: Input should be a valid boolean"),
    ],
)
def test_words_that_are_wrong_are_named(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(CHAT))
    assert main(["render", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_laws_are_printed_and_counted(tiny_tokenizer_dir, capsys):
    assert main(["laws", "qwen3_nothink", "--tokenizer", str(tiny_tokenizer_dir), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [law["held"] for law in found["laws"]] == [True] * 6 and found["contradicts"] == ""
    assert main(["laws", "--template", "default", "--tokenizer", str(tiny_tokenizer_dir)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("held") >= 5 and "note: template default is not what" in printed
