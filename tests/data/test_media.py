"""Files that rows name: put where the text has their place, kept as paths in the cache, read when a batch is laid out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.chat.codec import build_codec
from hone.chat.message import Image, Text, Video
from hone.chat.survey import tokens_of
from hone.chat.table import rows
from hone.config.chat import ChatConfig
from hone.config.data import DataConfig
from hone.config.model import ModelConfig
from hone.config.objective import Sft
from hone.data.batch import pack
from hone.data.build import build_data
from hone.data.columns import RowError
from hone.data.media import read_back, with_media, written_down
from hone.data.sharegpt import openai
from hone.errors import DataError
from hone.models.media.reader import load_reader
from hone.models.stand_in import stand_in_tokenizer
from hone.models.tokenizer import load_tokenizer
from hone.objectives.build import build_objective
from tests.data.test_shapes import spec
from tests.pictures import make_model, picture

ENTRY = {"formatting": "openai", "columns": {"messages": "messages", "images": "images", "videos": "videos"}}


def placed(*texts: str, **files) -> list[tuple]:
    row = {"messages": [{"role": "user", "content": text} for text in texts], **files}
    entry = spec(**ENTRY)
    return [one.parts for one in with_media(openai(row, entry), row, entry).messages]


def test_each_file_stands_where_the_text_has_its_place():
    first, second = placed("<image>Who? <image>", "<video>and <audio>", images=["a.png", {"bytes": b"b"}], videos="c.mp4")
    assert first == (Image(Path("a.png")), Text("Who? "), Image(b"b"))
    assert second == (Video(Path("c.mp4")), Text("and <audio>"))
    assert placed("plain") == [(Text("plain"),)]


@pytest.mark.parametrize(("text", "files"), [("<image>", []), ("none", ["a.png"]), ("<image><image>", ["a.png"])])
def test_files_and_places_must_be_as_many(text, files):
    with pytest.raises(RowError, match=f"it has {len(files)} files and <image> {text.count('<image>')} times"):
        placed(text, images=files)


def test_what_is_written_down_is_read_back():
    parts = (Image(Path("a b/ü.png")), Video(Path("c.mp4")), Image(b"\x00\xff"))
    assert read_back(written_down(parts)) == parts
    assert written_down(()) == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set of three rows, the last of which names a file that is not there, and two pictures beside it."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "1.png").write_bytes(picture(60, 40))
    (folder / "2.png").write_bytes(picture(90, 90, seed=1))
    said = [[["1.png"], "<image>What?"], [["1.png", "2.png"], "<image>and<image>?"], [["3.png"], "<image>?"], [[], "Hi"]]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "A cat."}], "images": files}
        for files, text in said
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"seen": {"file_name": "rows.json", **ENTRY}}))
    return folder


def built(folder, codec, **more):
    data = DataConfig(dataset_dir=str(folder), tokenized_path=str(folder / "tokens"), max_bad_rows=0.5, **more)
    return build_data(data, build_objective(Sft()), codec, names=("seen",), seed=0)


def test_paths_are_cached_and_files_are_read_when_a_batch_is_laid_out(folder, tmp_path):
    model = ModelConfig(model_name_or_path=str(tmp_path))
    make_model(tmp_path, "qwen2_5_vl")
    codec = build_codec(ChatConfig(template="qwen2_vl"), load_tokenizer(model), reader=load_reader(model))
    for _ in range(2):  # encoded, and found in the cache
        tokens = built(folder, codec)
        assert tokens.shows_media and len(tokens) == 3
        assert "3.png" in str(tokens.report.sets[0].refused)
        batch = pack([tokens[index] for index in range(3)])
        counts = [len(tensors.get("image_grid_thw", ())) for tensors in batch.shown]
        assert counts == [1, 2, 0]
        token, grids = codec.reader.tokens["image"], [one["image_grid_thw"] for one in batch.shown[:2]]
        assert int((batch.ids_BT == token).sum()) == sum(int(grid.prod(-1).sum()) // 4 for grid in grids)
    first, second = batch.halves()
    assert [len(first.shown), len(second.shown)] == [2, 1]


def test_a_model_of_text_alone_refuses_the_rows(folder):
    row = rows()["qwen2_vl"]
    codec = build_codec(ChatConfig(template="qwen2_vl"), stand_in_tokenizer(row.bos, row.eos, tokens_of(row)))
    with pytest.raises(DataError, match="this model takes text alone"):
        built(folder, codec)
