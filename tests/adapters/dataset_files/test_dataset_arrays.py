"""Arrays and images: what a profile says of them, and what training gets."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapters.dataset_files import profile, read_arrays, read_images

from .archives import folders, png, zipped


def saved(folder: Path, **arrays: object) -> Path:
    path = folder / "file.npz"
    np.savez_compressed(path, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


def archived(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


class TestArrays:
    @pytest.mark.parametrize("name", ["x", "images"])
    @pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (8, 6, 1)])
    def test_images_and_labels(self, tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
        path = saved(tmp_path, **{name: np.arange(5 * np.prod(shape)).reshape(5, *shape) % 256, "y": [0, 1, 1, 2, 1]})
        result = profile(path, "x.npz")
        images, labels = result.columns
        assert (result.format, result.rows) == ("npz", 5)
        assert (images.type, images.shape, images.minimum) == ("image", shape, 0.0)
        assert (labels.type, labels.distinct, labels.values) == ("integer", 3, ("1", "0", "2"))
        assert result.preview[0] == ("×".join(map(str, shape)), 0)

    def test_other_arrays(self, tmp_path: Path) -> None:
        features = np.array([[1.0, 2.0], [np.nan, 4.0], [np.inf, 0.0]])
        path = saved(
            tmp_path, features=features, target=[1.5, np.nan, 2.5], name=["a", "ب", "a"], flag=[True, False, True],
            when=np.array(["2024-01-01", "2024-01-02", "NaT"], "datetime64[D]"), code=np.array([b"x", b"y", b"x"]),
        )  # fmt: skip
        result = profile(path, "x.npz")
        assert {column.name: (column.type, column.missing) for column in result.columns} == {
            "features": ("array", 2), "target": ("number", 1), "name": ("text", 0), "flag": ("boolean", 0),
            "when": ("datetime", 1), "code": ("text", 0),
        }  # fmt: skip
        array = result.columns[0]
        assert (array.shape, array.minimum, array.maximum, array.mean) == ((2,), 0.0, 4.0, 7 / 4)
        assert result.preview[1] == ("2", None, "ب", False, "2024-01-02T00:00:00Z", "y")

    def test_a_mean_that_no_number_holds_is_not_told(self, tmp_path: Path) -> None:
        block, column = profile(saved(tmp_path, block=np.full((3, 4), 1e308), column=[1e308] * 3), "x.npz").columns
        assert (block.minimum, block.maximum, block.mean) == (1e308, 1e308, None)
        assert (column.minimum, column.maximum) == (1e308, 1e308)

    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", ">u2", "?", "f2"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_training_gets_the_same_values(self, tmp_path: Path, dtype: str, order: str) -> None:
        array = np.asarray(np.arange(24).reshape(4, 3, 2), dtype=dtype)
        array = np.asfortranarray(array) if order == "F" else array
        got = read_arrays(saved(tmp_path, a=array))["a"]
        assert np.array_equal(got, array)
        assert got.dtype.isnative
        assert got.flags.writeable


class TestImages:
    def test_folders_are_labels(self, tmp_path: Path) -> None:
        path = archived(tmp_path, folders("گربه", "سگ", images=3))
        result = profile(path, "x.zip")
        image, label = result.columns
        assert (result.format, result.rows, image.type, image.shape) == ("images", 6, "image", (3, 4, 3))
        assert (label.name, label.distinct, set(label.values)) == ("label", 2, {"گربه", "سگ"})
        assert result.preview[0] == ("گربه/0.png", "گربه")

    def test_training_gets_the_pixels(self, tmp_path: Path) -> None:
        folder = read_images(archived(tmp_path, folders("b", "a", images=2)))
        assert folder.labels == ["a", "b"]
        items = list(folder.items)
        assert [number for number, _ in items] == [1, 1, 0, 0]
        assert all(pixels.shape == (3, 4, 3) and pixels.dtype == np.uint8 for _, pixels in items)
        assert [int(pixels[0, 0, 0]) for _, pixels in items] == [0, 1, 0, 1]

    @pytest.mark.parametrize(
        ("format", "modes"),
        [
            ("PNG", ["RGB", "L", "P", "RGBA", "1", "I;16", "LA"]),
            ("JPEG", ["RGB", "L", "1", "CMYK"]),
            ("WEBP", ["RGB", "L", "P", "RGBA", "1", "LA"]),
            ("BMP", ["RGB", "L", "P", "RGBA", "1"]),
            ("GIF", ["RGB", "L", "P", "RGBA", "1", "LA"]),
        ],
    )
    def test_any_kind_of_image_becomes_rgb(self, tmp_path: Path, format: str, modes: list[str]) -> None:
        members: list[tuple[str, bytes]] = []
        for mode in modes:
            out = io.BytesIO()
            Image.new(mode, (4, 3)).save(out, format)
            members.append((f"a/{len(members)}", out.getvalue()))
        path = archived(tmp_path, zipped(*members))
        assert profile(path, "x.zip").columns[0].shape == (3, 4, 3)
        assert {pixels.shape for _, pixels in read_images(path).items} == {(3, 4, 3)}

    def test_sixteen_bits_become_eight(self, tmp_path: Path) -> None:
        out = io.BytesIO()
        Image.fromarray(np.full((3, 4), 0x8001, np.uint16)).save(out, "PNG")
        ((_, pixels),) = read_images(archived(tmp_path, zipped(("a/1.png", out.getvalue())))).items
        assert set(pixels.ravel().tolist()) == {0x80}

    def test_a_photo_is_turned_upright(self, tmp_path: Path) -> None:
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (4, 3)).save(out, "JPEG", exif=exif)
        path = archived(tmp_path, zipped(("a/1.jpg", out.getvalue())))
        assert [pixels.shape for _, pixels in read_images(path).items] == [(4, 3, 3)]
        assert profile(path, "x.zip").columns[0].shape == (4, 3, 3)

    def test_sizes_may_differ_and_an_animation_is_its_first_frame(self, tmp_path: Path) -> None:
        out = io.BytesIO()
        Image.new("RGB", (9, 9), (255, 0, 0)).save(
            out, "GIF", save_all=True, append_images=[Image.new("RGB", (9, 9), (0, 0, 255))]
        )
        path = archived(tmp_path, zipped(("set/a/1.gif", out.getvalue()), ("set/b/1.png", png())))
        assert profile(path, "x.zip").columns[0].shape is None
        first, second = (pixels for _, pixels in read_images(path).items)
        assert first[0, 0].tolist() == [255, 0, 0]
        assert second.shape == (3, 4, 3)

    def test_litter_is_ignored(self, tmp_path: Path) -> None:
        litter = [("__MACOSX/a/._1.png", b"x"), ("a/.DS_Store", b"x"), ("a/Thumbs.db", b"x"), ("a/", b"")]
        path = archived(tmp_path, zipped(("a/1.png", png()), *litter))
        assert profile(path, "x.zip").rows == 1

    def test_a_name_in_utf8_that_does_not_say_so_is_read(self, tmp_path: Path) -> None:
        data = bytearray(folders("سگ", images=1))
        for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.index(mark) + offset
            data[at + 1] &= ~0x08 & 0xFF
        assert zipfile.ZipFile(io.BytesIO(data)).namelist() != ["سگ/0.png"]
        assert profile(archived(tmp_path, bytes(data)), "x.zip").columns[1].values == ("سگ",)

    def test_a_name_of_an_old_program_is_read_as_dos_wrote_it(self, tmp_path: Path) -> None:
        data = folders("caf#", images=1).replace(b"caf#", b"caf\x82")
        assert profile(archived(tmp_path, data), "x.zip").columns[1].values == ("café",)
