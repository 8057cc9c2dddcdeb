"""hone export, parity, chat and api with a GGUF file, from settings to answers."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hone import cli
from hone.chat.message import Conversation, message
from hone.commands.api import load_served
from hone.config import load
from hone.config.adapter import Full
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.config.model import ModelConfig
from hone.config.serve import ServeConfig
from hone.errors import ModelError
from hone.export.folder import REPORT
from hone.inference.base import Request, Steering
from hone.inference.build import build_engine
from tests.export.gguf.conftest import IDS
from tests.runs import make_rows


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_model_dir):
    """The tiny model as a GGUF file in f16, with perplexity on a few rows."""
    out = tmp_path_factory.mktemp("gguf")
    (out / "rows.json").write_text(json.dumps(make_rows(6)))
    said = ["export_format=gguf", "gguf_type=f16", f"eval_dataset={out / 'rows.json'}", f"tokenized_path={out / 'cache'}"]
    assert cli.main(["export", f"model_name_or_path={tiny_model_dir}", f"export_dir={out / 'model'}", *said]) == 0
    return out / "model"


def test_export_ends_with_parity_and_ollamas_file(exported) -> None:
    report = json.loads((exported / REPORT).read_text())
    assert report["parity"]["passed"] and report["parity"]["misread"] == []
    before, after = report["parity"]["loss"]
    assert before == pytest.approx(after, abs=1e-3) and before > 1
    assert (exported / "Modelfile").read_text().startswith("FROM ./model-F16.gguf\nTEMPLATE")
    assert "library_name: gguf" in (exported / "README.md").read_text()


def test_parity_alone_passes_and_fails(exported, tiny_model_dir, tmp_path, capsys) -> None:
    file = str(exported / "model-F16.gguf")
    assert cli.main(["parity", str(tiny_model_dir), file]) == 0
    assert "parity passed (f16)" in capsys.readouterr().out
    other = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "other" / name).write_text((tiny_model_dir / name).read_text())
    assert cli.main(["parity", str(tmp_path / "other"), file]) == 1
    assert cli.main(["parity", str(tiny_model_dir)]) == 2


def test_it_answers_as_the_embedded_engine_does(exported, tiny_model_dir) -> None:
    """Greedily and drawn by a seed; steering and log-probs are the same code."""
    asked = Conversation((message("user", "What is the capital of France?"),))
    ours = build_engine(ModelConfig(model_name_or_path=str(exported)), ChatConfig(), Full())
    theirs = build_engine(
        ModelConfig(model_name_or_path=str(tiny_model_dir)), ChatConfig(), Full(), serve=ServeConfig(infer_dtype="float32")
    )
    for settings in ({"do_sample": False}, {"do_sample": False, "repetition_penalty": 1.3}):
        request = Request(asked, GenerateConfig(max_new_tokens=12, **settings), steering=Steering(num_top=2))
        (one,), (other,) = ([list(engine.generate(request)) for engine in (ours,)], [list(theirs.generate(request))])
        assert one[-1].answer == other[-1].answer and len(one) > 2
        pairs = zip((t for d in one for t in d.tokens), (t for d in other for t in d.tokens), strict=True)
        assert all(abs(a.logprob - b.logprob) < 0.02 for a, b in pairs)
    drawn = Request(asked, GenerateConfig(max_new_tokens=12), seed=3)
    assert ours.generate_many([drawn]) == ours.generate_many([drawn])
    ours.model.library.close()


def test_it_is_served(exported, capsys) -> None:
    run = load([f"model_name_or_path={exported}", "infer_backend=llamacpp", "max_new_tokens=3"], "api")
    engine = load_served(run, "mine", num_together=4).engine
    *_, last = engine.generate(Request(Conversation((message("user", "Hello?"),)), run.generate))
    assert engine.num_together == 1 and last.answer.num_tokens <= 3
    with pytest.raises(ModelError, match="none is put onto a GGUF file"):
        engine.add_adapter("mine", "folder")
    engine.model.library.close()
    assert cli.main(["chat", f"model_name_or_path={exported / 'model-F16.gguf'}", "max_new_tokens=3", "--ask", "Hello?"]) == 0


def test_a_template_within_the_file_is_no_program(exported, tmp_path, monkeypatch) -> None:
    """CVE-2024-34359 of llama-cpp-python: it rendered the template of a file with all of Python in reach. Here it is not read."""
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    file, template = folder / "model-F16.gguf", (folder / "chat_template.jinja").read_bytes()
    whole, program = file.read_bytes(), b"{{ cycler.__init__.__globals__.os.mkdir('mark') }}"
    assert whole.count(template) == 1
    file.write_bytes(whole.replace(template, program.ljust(len(template))))
    monkeypatch.chdir(tmp_path)
    engine = build_engine(ModelConfig(model_name_or_path=str(folder)), ChatConfig(), Full())
    asked = Request(Conversation((message("user", "Hello?"),)), GenerateConfig(max_new_tokens=2))
    *_, last = engine.generate(asked)
    assert last.answer.num_tokens and engine.model.about["tokenizer.chat_template"].strip() == program.decode()
    engine.model.library.close()
    assert not (tmp_path / "mark").exists()


def test_what_does_not_go_with_a_gguf_file_is_told(exported, tmp_path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        build_engine(ModelConfig(model_name_or_path=str(tmp_path / "x.gguf")), ChatConfig(), Full())
    adapted = load([f"model_name_or_path={exported / 'model-F16.gguf'}", f"adapter_name_or_path={exported}"], "api")
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        load_served(adapted, "mine")
    with pytest.raises(ModelError, match="holds 0 of them"):
        build_engine(
            ModelConfig(model_name_or_path=str(tmp_path)), ChatConfig(), Full(), serve=ServeConfig(infer_backend="llamacpp")
        )


def test_an_adapter_by_itself_does_what_peft_does(tiny_model_dir, exported, make_adapter, tmp_path, library) -> None:
    """5e-3 of a standard deviation: the base is f16. Without the adapter the difference is large."""
    adapter = make_adapter(tiny_model_dir, "one", r=3, lora_alpha=7)
    base = [f"model_name_or_path={tiny_model_dir}", f"adapter_name_or_path={adapter}"]
    told = [f"export_dir={tmp_path / 'lora'}", "export_format=gguf", "export_adapter_only=true"]
    assert cli.main(["export", *base, *told]) == 0
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32), adapter).eval()
    with torch.inference_mode():
        wanted = tuned(input_ids=torch.tensor([IDS])).logits[0].numpy()
    model = library.load(exported / "model-F16.gguf", exact=True)
    before = np.abs(model.logits(IDS) - wanted).max() / wanted.std()
    model.add_adapter(tmp_path / "lora" / "lora-lora.gguf")
    after = np.abs(model.logits(IDS) - wanted).max() / wanted.std()
    model.close()
    assert after < 5e-3 < 0.1 < before
