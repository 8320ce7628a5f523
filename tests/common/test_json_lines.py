"""Files of JSON lines: what is appended joins no torn line, and what is read is whole lines."""

from __future__ import annotations

import os

import pytest

from restart_sampling.common import json_lines
from restart_sampling.common.errors import OutputError


def test_a_torn_line_is_ended_before_the_next(tmp_path):
    path = tmp_path / "rows.jsonl"
    json_lines.append(path, '{"a": 1}')
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    json_lines.append(path, '{"a": 3}')
    json_lines.append(path, '{"a": "é"}')
    assert path.read_text() == '{"a": 1}\n{"a": 2, "b\n{"a": 3}\n{"a": "é"}\n'


@pytest.mark.parametrize("durable", [True, False])
def test_only_durable_lines_are_flushed_to_the_disk(tmp_path, monkeypatch, durable):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    json_lines.append(tmp_path / "rows.jsonl", "{}", durable=durable)
    assert len(flushed) == durable


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"one\n\n  \ntwo \r\n\xff\nlast")
    assert list(json_lines.numbered(path)) == [(1, "one"), (4, "two "), (5, "\ufffd"), (6, "last")]
    with pytest.raises(OutputError, match="cannot read"):
        list(json_lines.numbered(tmp_path))


def test_the_tail_has_whole_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("first\nsecond\nthird\n")
    assert json_lines.tail(path, 1000) == ["first", "second", "third", ""]
    assert json_lines.tail(path, 9) == ["third", ""]
    assert json_lines.tail(path.with_name("none"), 9) == []


@pytest.mark.parametrize("text", ["[1]", "1", '{"a": NaN}', '{"a"', "", "[" * 100_000])
def test_a_line_is_one_object(text):
    with pytest.raises(ValueError):
        json_lines.parse(text)
    assert json_lines.parse('{"a": [1, 2.5]}') == {"a": [1, 2.5]}
