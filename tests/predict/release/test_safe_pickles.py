from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from configs.errors import InputError
from predict.release.safe_pickles import read_pickle


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_data_is_read_back(tmp_path: Path, protocol: int) -> None:
    arrays = [
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.asfortranarray(np.eye(3, dtype=np.float16)),
        np.array([True, False]),
        np.array(["a", None], dtype=object),
    ]
    data = {"a": [1, 2.5, None, True], "b": ({3}, frozenset({"x"}), b"\x00\xff", 1j)}
    scalars = (np.float32(0.5), np.int64(3), np.dtype("int8"))
    path = written(tmp_path / "x.pkl", pickle.dumps((data, arrays, scalars), protocol))
    read = read_pickle(path)
    assert read[0] == data
    assert read[2] == scalars
    for array, there in zip(arrays, read[1], strict=True):
        assert there.dtype == array.dtype
        np.testing.assert_array_equal(there, array)


def test_the_older_name_of_a_module_of_numpy_is_read(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(3), 2)
    assert b"numpy._core.multiarray" in content
    older = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(read_pickle(written(tmp_path / "x.pkl", older)), np.arange(3))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"cos\nsystem\n(S'touch called'\ntR.", "os.system"),
        (b"cposix\nsystem\n(S'touch called'\ntR.", "posix.system"),
        (b'cbuiltins\neval\n(S\'open("called", "w")\'\ntR.', "builtins.eval"),
        (b"c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (b"(S'touch called'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch called\x85R.", "os.system"),
        (pickle.dumps(Path("x")), "pathlib"),
        (pickle.dumps(np.random.default_rng(0)), "numpy.random"),
    ],
)
def test_anything_else_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        read_pickle(written(tmp_path / "x.pkl", content))
    assert named in refused.value.message
    assert "x.pkl" in refused.value.message
    assert not (tmp_path / "called").exists()


def test_text_is_encoded_as_latin_only(tmp_path: Path) -> None:
    content = b"c_codecs\nencode\n(Vabc\nVrot13\ntR."
    with pytest.raises(InputError, match="rot13"):
        read_pickle(written(tmp_path / "x.pkl", content))


def test_what_a_pickle_may_call_it_cannot_alter(tmp_path: Path) -> None:
    # BUILD with a state would set attributes of the function, for every later pickle.
    content = b"c_codecs\nencode\n(dVevil\nI1\nsb."
    with pytest.raises(InputError):
        read_pickle(written(tmp_path / "x.pkl", content))


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x05", pickle.dumps([1, 2])[:-3]])
def test_damage_is_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError) as refused:
        read_pickle(written(tmp_path / "x.pkl", content))
    assert len(refused.value.message.splitlines()) == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pkl"):
        read_pickle(tmp_path / "none.pkl")
