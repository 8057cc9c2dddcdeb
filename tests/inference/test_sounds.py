"""A model that listens: ids and tensors of the maker's processor, log-probs of the plain forward, generate's answers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from tests.pictures import make_codec, sound
from transformers import Qwen2AudioProcessor

from hone.chat.encoded import IGNORE
from hone.chat.message import Audio, Conversation, Message, Text, message
from hone.config.generate import GenerateConfig
from hone.data.batch import pack, pad
from hone.errors import MediaError
from hone.inference.base import Request
from hone.inference.hf import HfEngine
from hone.models.media.sounds import length_of, read_sound, resample
from hone.models.policy import Policy

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def hearing(tmp_path_factory):
    return make_codec(tmp_path_factory.mktemp("qwen2_audio"), "qwen2_audio")


def asked(*files: bytes) -> Conversation:
    parts = [part for file in files for part in (Audio(file), Text("what?"))]
    return Conversation((Message("user", tuple(parts) or (Text("Hi"),)),))


def official(codec, talk):
    tokenizer = codec.tokenizer.__class__(tokenizer_object=codec.tokenizer.backend_tokenizer, pad_token=codec.tokenizer.pad_token)
    tokenizer.chat_template = "x"
    sounds = [soundfile.read(io.BytesIO(part.source), dtype="float32")[0] for part in talk.media]
    text = codec.template.render(talk, prompt=True).text
    return Qwen2AudioProcessor(codec.reader._processor, tokenizer)(
        text=[text], audio=sounds, return_tensors="pt", sampling_rate=16000
    )


def test_ids_and_tensors_are_those_of_the_official_processor(hearing):
    _, codec = hearing
    talk = asked(sound(0.5), sound(1.3, seed=1))
    encoded, theirs = codec.encode_prompt(talk), official(codec, talk)
    assert "Audio 2: <|audio_bos|>" in codec.tokenizer.decode(encoded.ids)
    assert encoded.ids.tolist() == theirs["input_ids"][0].tolist()
    for name, tensor in encoded.shown.tensors().items():
        assert torch.equal(tensor, theirs[name]), name


def test_log_probs_are_those_of_the_plain_forward(hearing):
    module, codec = hearing
    talks = [asked(sound(0.5)), asked(sound(1.3, seed=1), sound(0.2, seed=2)), asked()]
    encoded = codec.encode([Conversation((*talk.messages, message("assistant", "A bell."))) for talk in talks])
    policy = Policy(module)
    policy.self_test()
    wanted = []
    for one in encoded:
        ids_1T, labels_T = torch.as_tensor(one.ids).long()[None], torch.as_tensor(one.labels).long()
        with torch.no_grad():
            logits = module(input_ids=ids_1T, use_cache=False, **one.shown.tensors()).logits[0]
        learned = (labels_T[1:] != IGNORE).nonzero()[:, 0] + 1
        found_T = torch.zeros(len(labels_T))
        found_T[learned] = logits.log_softmax(-1)[learned - 1, labels_T[learned]]
        wanted.append(found_T)
    with torch.no_grad():
        padded_BT, deaf = policy.token_logprobs(pad(encoded, 0)), pad(encoded, 0)
        packed_1T = policy.token_logprobs(pack(encoded)) if policy.can_pack else None
        silent = tuple({**one, "input_features": one["input_features"] * 0} if one else {} for one in deaf.shown)
        silent_BT = policy.token_logprobs(type(deaf)(**{**vars(deaf), "shown": silent}))
    for row, one in enumerate(wanted):  # sums in another order, of log-probs of size 10
        torch.testing.assert_close(padded_BT[row, : len(one)], one, atol=2e-5, rtol=0)
    if packed_1T is not None:
        torch.testing.assert_close(packed_1T[0], torch.cat(wanted), atol=2e-5, rtol=0)
    assert (silent_BT - padded_BT).abs().max() > 1e-2


def test_an_answer_is_what_transformers_generates(hearing):
    module, codec = hearing
    engine, talk = HfEngine(module, codec), asked(sound(0.5))
    assert engine.media == {"audio"}
    (answer,) = [
        one.answer for one in engine.generate(Request(talk, GenerateConfig(do_sample=False, max_new_tokens=5))) if one.answer
    ]
    with torch.inference_mode():
        out = module.generate(
            **official(codec, talk), do_sample=False, max_new_tokens=5, eos_token_id=list(codec.stop_ids), pad_token_id=0
        )
    assert answer.message == codec.parse(out[0, answer.num_prompt :].tolist())


def test_a_tone_keeps_its_pitch_at_another_rate():
    """A sine of 100 Hz at 48 kHz is the same sine at 16 kHz: the spectrum of both is one line."""
    given, wanted = (np.sin(2 * np.pi * 100 * np.arange(rate) / rate).astype(np.float32) for rate in (48000, 16000))
    assert np.abs(resample(given, 48000, 16000) - wanted).max() < 1e-4


def test_what_cannot_be_heard_is_refused(hearing, tmp_path):
    _, codec = hearing
    file = sound(0.25, 8000)
    assert length_of(file, 16000) == len(read_sound(file, 16000)) == 4000
    with pytest.raises(MediaError, match=r"3.0 seconds, and the model hears 2"):
        codec.prompt(asked(sound(3.0)))
    with pytest.raises(MediaError, match="there is no sound"):
        read_sound(tmp_path / "none.wav", 16000)
    with pytest.raises(MediaError, match="no sound that can be read"):
        read_sound(b"RIFF", 16000)
