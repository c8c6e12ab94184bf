"""Files of the user: what is read, and that all that is wrong is refused with file and line."""

import gzip
import re

import numpy as np
import pytest
import torch
from PIL import Image

from dlrt.finetune.files import Example, classes, documents, fingerprint, labelled_texts, labels, picture, pictures

ROWS = [(("good, very",), "1"), (('a "bad" one',), "0"), (("two\nlines",), "1")]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables(tmp_path, end):
    lines = "label,text", '1,"good, very"', "", '0,"a ""bad"" one"', '1,"two\nlines"', ""
    found = labelled_texts([write(tmp_path, "a.csv", "\ufeff" + end.join(lines))])
    assert [(x.content, x.label) for x in found] == ROWS
    assert [x.place.rpartition(" ")[2] for x in found] == ["2", "4", "5"]
    tsv = write(tmp_path, "a.tsv", end.join(("text\tlabel", 'said "so\tyes', 'so" it is\tno', "")))
    assert [(x.content, x.label) for x in labelled_texts([tsv])] == [(('said "so',), "yes"), (('so" it is',), "no")]
    objects = write(tmp_path, "a.jsonl", end.join(('{"text": "x", "label": 3}', "", '{"text": "y", "label": true}')))
    assert [(x.content, x.label) for x in labelled_texts([objects])] == [(("x",), "3"), (("y",), "True")]
    pairs = write(tmp_path, "b.csv", f"a,b,c{end}x,y,z{end}")
    assert labelled_texts([pairs], ("a", "c"), "b") == [Example(("x", "z"), "y", f"{pairs}, line 2")]


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.csv", "text,label\na,1\nb\n", 3, "1 fields, expected 2"),
        ("a.csv", "text,label\na,1\nb,2,3\n", 3, "3 fields, expected 2"),
        ("a.csv", "text,class\na,1\n", 1, "there is no column 'label' among 'text', 'class'"),
        ("a.csv", "text,label,text\na,1,b\n", 1, "there are several columns 'text'"),
        ("a.csv", 'text,label\n"a\nb",1\n ,2\n', 4, "text is empty"),
        ("a.csv", "text,label\na,\n", 2, "the label is empty"),
        ("a.csv", "text,label\na,1\nb,2.5\n", 3, "a label must be a word or an integer, for a class, got 2.5"),
        ("a.csv", 'text,label\na,1\n"b,2\nc,3\n', 3, "unexpected end of data"),
        ("a.tsv", "text\tlabel\na\t1\nb 2\n", 3, "1 fields, expected 2"),
        ("a.csv", b"text,label\na,1\n\xff,2\n", 3, "is not UTF-8"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label"\n', 2, "is not JSON"),
        ("a.jsonl", '\n{"text": "a"}\n', 2, "there is no 'label' among 'text'"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', 1, "text must be a text, got 3"),
        ("a.jsonl", '{"text": "a", "label": 0.5}\n', 1, "a label must be a word or an integer, got 0.5"),
        ("a.jsonl", '{"text": "a", "label": null}\n', 1, "a label must be a word or an integer, got None"),
        ("a.jsonl", '["a", 1]\n', 1, "expected an object"),
    ],
)
def test_bad_rows(tmp_path, name, content, line, message):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        labelled_texts([path])
    assert str(error.value).startswith((f"{path}, line {line}:", f"{path}, line {line} "))


def test_bad_tables(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv holds no examples"):
        labelled_texts([write(tmp_path, "a.csv", "text,label\n")])
    with pytest.raises(ValueError, match=r"a.csv holds no examples"):
        labelled_texts([write(tmp_path, "a.csv", "")])
    with pytest.raises(ValueError, match=r"must end in .csv, .tsv, .jsonl"):
        labelled_texts([write(tmp_path, "a.json", "[]")])


def test_documents(tmp_path):
    plain = write(tmp_path, "a.txt", "one\ntwo\n")
    objects = write(tmp_path, "a.jsonl", '{"text": "three"}\n{"text": "four", "more": 1}\n')
    assert documents([plain, objects]) == ["one\ntwo\n", "three", "four"]
    with pytest.raises(ValueError, match=r"a.txt: the file is empty"):
        documents([write(tmp_path, "a.txt", " \n")])
    with pytest.raises(ValueError, match=r"a.txt, line 2 is not UTF-8"):
        documents([write(tmp_path, "a.txt", b"one\n\xe4\n")])
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: text is empty"):
        documents([write(tmp_path, "a.jsonl", '{"text": ""}')])


def test_classes():
    examples = [Example((), label, f"file, line {i}") for i, label in enumerate(["10", "9", "10", "-1"])]
    assert classes(examples) == ["-1", "9", "10"]
    assert labels(examples, classes(examples)).tolist() == [2, 1, 2, 0]
    words = [Example((), label, "") for label in ("b", "a", "10")]
    assert classes(words) == ["10", "a", "b"]
    with pytest.raises(ValueError, match=r"file, line 1: the class '9' is none of 10, -1"):
        labels(examples, ["10", "-1"])
    with pytest.raises(ValueError, match=r"data must have at least two classes, got 10"):
        classes(examples[:1])


def test_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            image = rng.integers(0, 255, (9, 7 + i, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "cat" / ".hidden").write_bytes(b"")
    (tmp_path / "data" / "cat" / "Thumbs.db").write_bytes(b"")
    found = pictures([tmp_path / "data"])
    assert [example.label for example in found] == ["cat", "cat", "dog", "dog"]
    assert picture(found[0].content, 5, 3).shape == (3, 5, 5) and picture(found[1].content, 5, 1).shape == (1, 5, 5)
    exact = np.asarray(Image.open(found[0].content).resize((9, 9), Image.Resampling.BILINEAR))
    assert torch.equal(picture(found[0].content, 9, 3), torch.from_numpy(exact.copy()).permute(2, 0, 1))


def test_a_turned_photograph_is_upright(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    meta = Image.Exif()
    meta[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=meta)
    upright = Image.fromarray(np.rot90(pixels, -1)).resize((6, 6), Image.Resampling.BILINEAR)
    assert np.array_equal(picture(tmp_path / "a.png", 6, 1)[0].numpy(), np.asarray(upright))


def test_bad_pictures(tmp_path):
    folder = tmp_path / "cat"
    folder.mkdir()
    for name, content in (("notes.txt", b"text"), ("half.png", None)):
        image = folder / "half.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(image)
        write(folder, name, image.read_bytes()[:3000] if content is None else content)
        with pytest.raises(ValueError, match=rf"{name} is no picture that can be used"):
            pictures([tmp_path])
        (folder / name).unlink()
        image.unlink(missing_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(folder / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png .* mode I;16, expected 8 bits"):
        pictures([tmp_path])
    (folder / "deep.png").unlink()
    with pytest.raises(ValueError, match=r"cat holds no pictures"):
        pictures([tmp_path])
    with pytest.raises(ValueError, match=r"cat has no folders"):
        pictures([folder])
    (folder / "small").mkdir()
    with pytest.raises(ValueError, match=r"small is a folder, expected pictures"):
        pictures([tmp_path])
    with pytest.raises(ValueError, match="data must be a folder"):
        pictures([tmp_path, folder])


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def test_files_of_mnist(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 6, 6)).astype(np.uint8)
    numbers = np.array([2, 10, 2], np.uint8)
    files = [write(tmp_path, "i", idx(images)), write(tmp_path, "l.gz", gzip.compress(idx(numbers)))]
    found = pictures(files)
    assert [example.label for example in found] == ["2", "10", "2"]
    assert np.array_equal(picture(found[1].content, 6, 1)[0].numpy(), images[1])
    with pytest.raises(ValueError, match=r"l.gz has 2 labels for the 3 images of"):
        pictures([files[0], write(tmp_path, "l.gz", idx(numbers[:2]))])
    with pytest.raises(ValueError, match=r"short is not a file of 3-dimensional bytes"):
        pictures([write(tmp_path, "short", idx(images)[:-1]), files[1]])
    with pytest.raises(ValueError, match=r"empty is not a file of 3-dimensional bytes"):
        pictures([write(tmp_path, "empty", b""), files[1]])
    with pytest.raises(ValueError, match=r"half.gz is damaged"):
        pictures([write(tmp_path, "half.gz", gzip.compress(idx(images))[:-9]), files[1]])


def test_fingerprint(tmp_path):
    a, b = (write(tmp_path, name, "x") for name in ("a.csv", "b.csv"))
    assert fingerprint([a]) == fingerprint([b]) != fingerprint([a, b])
    assert fingerprint([tmp_path]) != fingerprint([a, b])
    before = fingerprint([a])
    write(tmp_path, "a.csv", "y")
    assert fingerprint([a]) != before
