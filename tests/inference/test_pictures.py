"""An engine that is shown pictures: ids, positions and logits against transformers' own processor and forward."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image as Pillow
from tests.pictures import make_model, picture
from transformers import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

from hone.chat.codec import build_codec
from hone.chat.message import Audio, Conversation, Image, Message, Text, message
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.config.use import GenerateConfig
from hone.errors import TemplateError
from hone.inference.base import Request
from hone.inference.hf import HfEngine
from hone.inference.rows import why_not
from hone.inference.together import TogetherEngine
from hone.models.media.reader import load_reader
from hone.models.tokenizer import load_tokenizer

GREEDY = GenerateConfig(do_sample=False, max_new_tokens=6)


class Official(Qwen2_5_VLProcessor):
    """The maker's processor without its video part, which needs torchvision."""

    def __init__(self, image_processor, tokenizer):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        ProcessorMixin.__init__(self, image_processor, tokenizer)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    return ModelConfig(model_name_or_path=str(folder)), *make_model(folder, "qwen2_5_vl")


@pytest.fixture(scope="module")
def seeing(place):
    model, module, template = place
    return module, build_codec(ChatConfig(template=template), load_tokenizer(model), reader=load_reader(model))


def asked(*parts) -> Conversation:
    return Conversation((Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts)),))


TALKS = [
    asked("What is ", Image(picture(60, 40)), "?"),
    asked(Image(picture(100, 100, seed=1)), "and", Image(picture(30, 90, seed=2)), "spell <|image_pad|>"),
    asked("No picture at all"),
]


def official_inputs(codec, talk):
    """What transformers' processor makes of the text that the maker's template writes."""
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    text += "".join(
        part.text if isinstance(part, Text) else "<|vision_start|><|image_pad|><|vision_end|>" for part in talk.messages[0].parts
    )
    images = [Pillow.open(io.BytesIO(part.source)).convert("RGB") for part in talk.media]
    processor = Official(codec.reader._processor, codec.tokenizer)
    return processor(text=[text + "<|im_end|>\n<|im_start|>assistant\n"], images=images or None, return_tensors="pt")


@pytest.mark.parametrize("number", [0, 2])
def test_ids_and_tensors_are_those_of_the_official_processor(seeing, number):
    _, codec = seeing
    encoded, theirs = codec.encode_prompt(TALKS[number]), official_inputs(codec, TALKS[number])
    assert encoded.ids.tolist() == theirs["input_ids"][0].tolist()
    tensors = encoded.shown.tensors()
    assert set(tensors) == {name for name in ("pixel_values", "image_grid_thw") if name in theirs}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, theirs[name])


def test_text_that_spells_the_token_stays_text(seeing):
    _, codec = seeing
    token = codec.reader.tokens["image"]
    ids = codec.prompt(TALKS[1])
    grids = codec.encode_prompt(TALKS[1]).shown.tensors()["image_grid_thw"]
    assert ids.count(token) == int((grids.prod(-1) // 4).sum()) > 4
    assert "spell <|image_pad|>" in codec.tokenizer.decode([one for one in ids if one != token])


def test_an_answer_is_what_transformers_generates(seeing):
    module, codec = seeing
    engine = HfEngine(module, codec)
    assert engine.media == frozenset({"image"})
    (answer,) = [one.answer for one in engine.generate(Request(TALKS[0], GREEDY)) if one.answer]
    inputs = official_inputs(codec, TALKS[0])
    with torch.inference_mode():
        out = module.generate(**inputs, do_sample=False, max_new_tokens=6, eos_token_id=list(codec.stop_ids), pad_token_id=0)
    assert answer.num_prompt == inputs["input_ids"].shape[1]
    assert answer.message == codec.parse(out[0, answer.num_prompt :].tolist())


def test_answers_drawn_together_are_those_drawn_alone(seeing):
    module, codec = seeing
    assert why_not(module) == ""
    alone, together = HfEngine(module, codec), TogetherEngine(module, codec, num_rows=3)
    requests = [Request(talk, GREEDY) for talk in TALKS]
    wanted = [[one.answer for one in alone.generate(request)][-1] for request in requests]
    assert alone.generate_many(requests) == wanted

    def draw(request):
        return [one.answer for one in together.generate(request)][-1]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(draw, requests)) == wanted


def test_what_the_model_does_not_take_is_refused(seeing):
    module, codec = seeing
    with pytest.raises(TemplateError, match="audio content, and this model takes text and image"):
        list(HfEngine(module, codec).generate(Request(asked(Audio(b"")), GREEDY)))
    with pytest.raises(TemplateError, match="an answer holds image"):
        codec.encode([Conversation((message("user", "a"), Message("assistant", (Image(picture()),))))])
