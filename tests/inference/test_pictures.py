"""An engine that is shown pictures: ids, positions and logits against transformers' own processor and forward."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image as Pillow
from tests.pictures import FAMILIES, make_codec, make_model, picture
from transformers import Gemma3Processor, LlavaProcessor, Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin

from hone.chat.codec import build_codec
from hone.chat.message import Audio, Conversation, Image, Message, Text, message
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.config.model import ModelConfig
from hone.errors import TemplateError
from hone.inference.base import Request
from hone.inference.hf import HfEngine
from hone.inference.rows import why_not
from hone.inference.together import TogetherEngine
from hone.models.media.reader import load_reader
from hone.models.tokenizer import load_tokenizer

GREEDY = GenerateConfig(do_sample=False, max_new_tokens=6)


class WithoutVideo(Qwen2_5_VLProcessor):
    """The maker's processor of Qwen2-VL and Qwen2.5-VL without its video part, which needs torchvision. Qwen3-VL's is alike."""

    def __init__(self, image_processor, tokenizer):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        ProcessorMixin.__init__(self, image_processor, tokenizer)


def llava(image_processor, tokenizer):
    """As llava-hf's processor_config.json has it."""
    return LlavaProcessor(
        image_processor, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def gemma3(image_processor, tokenizer):
    """With the names that Gemma 3's tokenizer_config.json gives its tokens."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return Gemma3Processor(image_processor, tokenizer, image_seq_length=4)


OFFICIAL = {"qwen2_vl": WithoutVideo, "qwen2_5_vl": WithoutVideo, "qwen3_vl": WithoutVideo, "llava": llava, "gemma3": gemma3}


@pytest.fixture(scope="module", params=list(FAMILIES))
def seeing(request, tmp_path_factory):
    return make_codec(tmp_path_factory.mktemp(request.param), request.param)


def asked(*parts) -> Conversation:
    return Conversation((Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts)),))


TALKS = [
    asked("What is ", Image(picture(60, 40)), "?"),
    asked(Image(picture(100, 100, seed=1)), "and", Image(picture(30, 90, seed=2)), "spell <|image_pad|>"),
    asked("No picture at all"),
]


def official_inputs(codec, talk):
    """What the maker's processor makes of the text that the template writes; Gemma 3's puts the words around a picture itself."""
    text = codec.template.render(talk, prompt=True).text
    text = text.replace("\n\n<start_of_image><image_soft_token><end_of_image>\n\n", "<start_of_image>")
    images = [Pillow.open(io.BytesIO(part.source)).convert("RGB") for part in talk.media]
    tokenizer = codec.tokenizer.__class__(tokenizer_object=codec.tokenizer.backend_tokenizer, pad_token=codec.tokenizer.pad_token)
    processor = OFFICIAL[codec.reader.config.model_type](codec.reader._processor, tokenizer)
    return processor(text=[text], images=images or None, return_tensors="pt", add_special_tokens=False)


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
    assert ids.count(token) == sum(len(codec.reader.stand_ins(part)) for part in TALKS[1].media) > 4
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
    if why := why_not(module):
        assert codec.reader.config.model_type == "gemma3", why  # its sliding windows keep another cache
        pytest.skip(why)
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


def test_the_tokenizers_own_template_shows_the_same(tmp_path, shared):
    """Qwen2.5-VL's, with no template named: its ids are those of the row, and its text cannot make a picture's token either."""
    make_model(tmp_path, "qwen2_5_vl")
    model = ModelConfig(model_name_or_path=str(tmp_path))
    tokenizer, reader = load_tokenizer(model), load_reader(model)
    tokenizer.chat_template = (shared / "chat_templates" / "trl" / "qwen2_5_vl.jinja").read_text(encoding="utf-8")
    own, row = (build_codec(ChatConfig(template=name), tokenizer, reader=reader) for name in (None, "qwen2_vl"))
    for talk in TALKS:
        one, other = own.encode_prompt(talk), row.encode_prompt(talk)
        assert one.ids.tolist() == other.ids.tolist() and one.shown.parts == other.shown.parts == talk.media
