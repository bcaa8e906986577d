import array
import base64
import dataclasses
import hashlib
import io
import os
import pickle
import socket
import struct
import zlib
from pathlib import Path
from urllib.parse import quote_from_bytes

import PIL.Image
import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from n1n_prefect import inspection
from n1n_prefect.errors import InvalidRequestError, SourceError, StagingError
from n1n_prefect.identity import request_key
from n1n_prefect.images import GeneratedImage, ImageOutcome, ImageRequest, UploadedImage
from n1n_prefect.sources import (
    LoadedImage,
    SourceRules,
    as_sources,
    fetch_https,
    hash_of,
    load_request,
    load_source,
)

WHERE = {"base_url": "https://api.n1n.ai", "account": "default", "scope": "run-1"}
ROOTS_SETTING = "PREFECT_INTEGRATIONS_N1N_INPUT_ROOTS"


def png(width: int = 2, height: int = 2, grey: int = 0) -> bytes:
    """A PNG whose header says what is given; a huge one holds no more than a row."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = (b"\0" + bytes([grey]) * min(width, 100)) * min(height, 100)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(media_type: str) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(buffer, media_type.removeprefix("image/"))
    return buffer.getvalue()


CAT = png()
CAT_SHA256 = hashlib.sha256(CAT).hexdigest()


def uploaded(data: bytes = CAT, **fields: object) -> UploadedImage:
    sha256 = hashlib.sha256(data).hexdigest()
    image = UploadedImage("shop", "in/cat.png", sha256, "image/png", 2, 2, len(data))
    return dataclasses.replace(image, **fields)


def generated(data: bytes = CAT, **fields: object) -> GeneratedImage:
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"n1n/{sha256}.png"
    image = GeneratedImage(
        f"file:///elsewhere/{key}", sha256, "image/png", 2, 2, len(data), "m", "request-key", storage_key=key
    )
    return dataclasses.replace(image, **fields)


class Bucket:
    """A bucket of S3 as a function."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = {("shop", "in/cat.png"): CAT, ("shop", "a b/ä?x=1#y%20.png"): CAT}
        self.asked: list[tuple[str, str, int]] = []

    def __call__(self, bucket: str, key: str, max_bytes: int) -> bytes:
        self.asked.append((bucket, key, max_bytes))
        return self.objects[bucket, key]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with an image in it."""
    working = tmp_path / "work"
    working.mkdir()
    (working / "cat.png").write_bytes(CAT)
    monkeypatch.chdir(working)
    return working


@pytest.fixture
def secret(tmp_path) -> Path:
    """An image beside the working directory, which nobody may read."""
    path = tmp_path / "secret.png"
    path.write_bytes(png(grey=7))
    return path


class TestLocalFiles:
    @pytest.mark.parametrize("source", ["cat.png", "./cat.png", Path("cat.png"), "sub/../cat.png", "../work/cat.png"])
    def test_below_the_working_directory(self, folder, source):
        (folder / "sub").mkdir()
        assert load_source(source) == LoadedImage(CAT, CAT_SHA256, "image/png", "cat.png")

    def test_an_absolute_path_below_a_root(self, folder, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "dog.png").write_bytes(CAT)
        rules = SourceRules(roots=(folder, tmp_path / "in"))
        assert load_source(str(tmp_path / "in" / "dog.png"), rules=rules).label == "dog.png"

    def test_the_working_directory_is_the_one_at_the_time(self, folder, tmp_path, monkeypatch):
        rules = SourceRules()
        (tmp_path / "later").mkdir()
        (tmp_path / "later" / "dog.png").write_bytes(CAT)
        monkeypatch.chdir(tmp_path / "later")
        assert load_source("dog.png", rules=rules).label == "dog.png"
        with pytest.raises(SourceError, match="outside"):
            load_source(folder / "cat.png", rules=rules)

    def test_a_home_directory_is_filled_in_for_paths_and_roots(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setenv("USERPROFILE", str(folder))
        monkeypatch.chdir("/")
        assert load_source("~/cat.png", rules=SourceRules(roots=(Path("~"),))).data == CAT

    @pytest.mark.parametrize(
        "name", ["12:30.png", "frame:01.png", "a b.png", "ä.png", "what?.png", "c#.png", "50%.png"]
    )
    def test_names_that_look_a_little_like_addresses(self, folder, name):
        (folder / name).write_bytes(CAT)
        assert load_source(name).data == CAT

    def test_a_drive_letter_is_no_scheme(self, folder):
        with pytest.raises(SourceError, match="does not exist"):
            load_source("C:\\images\\cat.png")
        with pytest.raises(SourceError, match="does not exist"):
            load_source("C:/images/cat.png")

    @pytest.mark.parametrize("source", ["../secret.png", "sub/../../secret.png", "/etc/passwd", "~/secret.png"])
    def test_outside_is_refused_with_the_setting_that_allows_it(self, folder, secret, source, monkeypatch):
        monkeypatch.setenv("HOME", str(secret.parent))
        with pytest.raises(SourceError) as caught:
            load_source(source)
        assert source in str(caught.value)
        assert str(folder) in str(caught.value)
        assert ROOTS_SETTING in str(caught.value)
        assert not caught.value.is_transient

    def test_a_sibling_whose_name_begins_like_the_root_is_outside(self, folder, tmp_path):
        (tmp_path / "work-2").mkdir()
        (tmp_path / "work-2" / "cat.png").write_bytes(CAT)
        with pytest.raises(SourceError, match="outside"):
            load_source("../work-2/cat.png")

    def test_outside_says_the_same_whether_the_file_exists_or_not(self, folder, secret):
        said = []
        for name in ("../secret.png", "../absent.png"):
            with pytest.raises(SourceError) as caught:
                load_source(name)
            said.append(str(caught.value).replace(Path(name).name, "…"))
        assert said[0] == said[1]

    def test_a_link_out_of_the_root_is_followed_and_refused(self, folder, secret):
        (folder / "link.png").symlink_to(secret)
        (folder / "up").symlink_to(secret.parent)
        for source in ("link.png", "up/secret.png"):
            with pytest.raises(SourceError, match="outside"):
                load_source(source)

    def test_a_link_within_the_roots_is_read(self, folder):
        (folder / "link.png").symlink_to("cat.png")
        assert load_source("link.png").data == CAT

    def test_a_root_that_is_a_link_is_what_it_leads_to(self, folder, tmp_path):
        (tmp_path / "images").symlink_to(folder)
        assert load_source(tmp_path / "images" / "cat.png", rules=SourceRules(roots=(tmp_path / "images",))).data == CAT

    def test_links_in_a_circle(self, folder):
        (folder / "a.png").symlink_to("b.png")
        (folder / "b.png").symlink_to("a.png")
        with pytest.raises(SourceError, match=r"a\.png"):
            load_source("a.png")

    def test_a_folder_swapped_for_a_link_while_it_is_opened(self, folder, secret, monkeypatch):
        (folder / "in").mkdir()
        (folder / "in" / "secret.png").write_bytes(CAT)
        really = os.open

        def swapping(path, *rest, **more):
            (folder / "in").rename(folder / "was")
            (folder / "in").symlink_to(secret.parent)
            return really(path, *rest, **more)

        monkeypatch.setattr(os, "open", swapping)
        with pytest.raises(SourceError, match="replaced"):
            load_source("in/secret.png")

    def test_a_folder_swapped_and_swapped_back(self, folder, secret, monkeypatch):
        (folder / "in").mkdir()
        (folder / "in" / "secret.png").write_bytes(CAT)
        really = os.open

        def swapping(path, *rest, **more):
            (folder / "in").rename(folder / "was")
            (folder / "in").symlink_to(secret.parent)
            opened = really(path, *rest, **more)
            (folder / "in").unlink()
            (folder / "was").rename(folder / "in")
            return opened

        monkeypatch.setattr(os, "open", swapping)
        with pytest.raises(SourceError, match="replaced"):
            load_source("in/secret.png")

    def test_a_file_swapped_for_a_link_while_it_is_opened(self, folder, secret, monkeypatch):
        really = os.open

        def swapping(path, *rest, **more):
            (folder / "cat.png").unlink()
            (folder / "cat.png").symlink_to(secret)
            return really(path, *rest, **more)

        monkeypatch.setattr(os, "open", swapping)
        with pytest.raises(SourceError, match=r"cat\.png"):
            load_source("cat.png")

    def test_a_file_swapped_for_a_pipe_does_not_hang(self, folder, monkeypatch):
        really = os.open

        def swapping(path, *rest, **more):
            (folder / "cat.png").unlink()
            os.mkfifo(folder / "cat.png")
            return really(path, *rest, **more)

        monkeypatch.setattr(os, "open", swapping)
        with pytest.raises(SourceError, match="replaced"):
            load_source("cat.png")

    def test_a_pipe(self, folder):
        os.mkfifo(folder / "pipe.png")
        with pytest.raises(SourceError, match="device or pipe"):
            load_source("pipe.png")

    def test_a_socket(self, folder):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("door.png")
            with pytest.raises(SourceError, match="device or pipe"):
                load_source("door.png")

    @pytest.mark.parametrize("source", [".", Path(), "sub", "sub/"])
    def test_a_directory(self, folder, source):
        (folder / "sub").mkdir()
        with pytest.raises(SourceError, match="directory"):
            load_source(source)

    def test_a_device_even_below_a_root(self):
        with pytest.raises(SourceError, match="device"):
            load_source("/dev/zero", rules=SourceRules(roots=(Path("/"),)))

    def test_the_environment_of_the_process_even_below_a_root(self, monkeypatch):
        monkeypatch.setenv("N1N_API_KEY", "sk-secret")
        with pytest.raises(SourceError) as caught:
            load_source("/proc/self/environ", rules=SourceRules(roots=(Path("/"),)))
        assert "secret" not in str(caught.value)

    def test_a_missing_file_says_where_it_was_looked_for(self, folder):
        with pytest.raises(SourceError, match=r"'dog\.png' does not exist") as caught:
            load_source("dog.png")
        assert str(folder / "dog.png") in str(caught.value)

    @pytest.mark.parametrize("source", ["a\0b.png", "\ud800.png", "x" * 300, "~no-such-user-here/cat.png", "cat.png/x"])
    def test_paths_that_no_system_takes(self, folder, source):
        with pytest.raises(SourceError) as caught:
            load_source(source)
        assert len(str(caught.value)) < 1000

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_without_permission(self, folder):
        (folder / "cat.png").chmod(0)
        with pytest.raises(SourceError, match="Permission denied"):
            load_source("cat.png")

    def test_the_limit_is_inclusive(self, folder):
        assert load_source("cat.png", rules=SourceRules(max_bytes=len(CAT))).data == CAT
        with pytest.raises(SourceError, match=f"{len(CAT)} bytes; at most {len(CAT) - 1}"):
            load_source("cat.png", rules=SourceRules(max_bytes=len(CAT) - 1))

    def test_a_large_file_is_refused_by_its_length_alone(self, folder):
        with (folder / "huge.png").open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(SourceError, match=str(2**40)):
            load_source("huge.png")

    def test_a_file_that_grows_while_it_is_read(self, folder, monkeypatch):
        really = os.fstat

        def growing(number):
            status = really(number)
            with (folder / "cat.png").open("ab") as file:
                file.write(b"more")
            return status

        monkeypatch.setattr(os, "fstat", growing)
        with pytest.raises(SourceError, match="finished file") as caught:
            load_source("cat.png")
        assert caught.value.is_transient

    @pytest.mark.parametrize("source", ["images.example.com/cat.png?X-Amz-Signature=hidden", "//h/x.png?sig=hidden"])
    def test_a_presigned_address_without_its_scheme_is_not_repeated(self, folder, source):
        with pytest.raises(SourceError) as caught:
            load_source(source)
        assert "hidden" not in str(caught.value)


class TestBytes:
    def test_are_taken_as_they_are(self):
        assert load_source(CAT, label="image 2") == LoadedImage(CAT, CAT_SHA256, "image/png", "image 2")

    def test_are_not_copied(self):
        assert load_source(CAT).data is CAT

    def test_beyond_the_limit(self):
        with pytest.raises(SourceError, match=f"image 2 has {len(CAT)} bytes"):
            load_source(CAT, label="image 2", rules=SourceRules(max_bytes=10))

    def test_are_in_no_repr(self):
        assert "PNG" not in repr(load_source(CAT)).replace("image/png", "")

    def test_survive_pickling(self):
        loaded = load_request(ImageRequest("a cat", images=(CAT,)))
        assert pickle.loads(pickle.dumps(loaded)) == loaded


BASE64 = base64.b64encode(CAT).decode()


class TestDataUris:
    @pytest.mark.parametrize(
        "uri",
        [
            f"data:image/png;base64,{BASE64}",
            f"DATA:image/png;BASE64,{BASE64}",
            f"data:;base64,{BASE64}",
            f"data:text/html;charset=utf-8;name=x.gif;base64,{BASE64}",
            f"data:image/png;base64,{BASE64.rstrip('=')}",
            f"data:image/png;base64,{BASE64.translate(str.maketrans('+/', '-_'))}",
            f"data:image/png;base64,{BASE64.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
            f"data:image/png;base64,\n{BASE64[:40]}\r\n {BASE64[40:]}\n",
            f"data:image/png,{quote_from_bytes(CAT)}",
            f"data:,{quote_from_bytes(CAT)}",
        ],
    )
    def test_in_every_spelling(self, uri):
        assert load_source(uri, label="image 3") == LoadedImage(CAT, CAT_SHA256, "image/png", "image 3")
        assert hash_of(uri) == CAT_SHA256

    @pytest.mark.parametrize(
        ("uri", "said"),
        [
            ("data:image/png;base64", "no data: address"),
            ("data:", "no data: address"),
            ("data:image/png;base64,ä", "no data: address"),
            ("data:image/png,\ud800%41", "no data: address"),
            ("data:image/png;base64,????", "damaged base64"),
            ("data:image/png;base64,AAAAA", "damaged base64"),
            ("data:image/png;base64,AA=A", "damaged base64"),
            ("data:image/png;base64,", "empty"),
            ("data:,a%20cat", "no image"),
            (f"data:image/png;base64,{BASE64[:-30]}", "truncated|damaged"),
            (f"data:image/png,{BASE64}", "no image"),
        ],
    )
    def test_broken_ones(self, uri, said):
        with pytest.raises(SourceError, match=f"image 3.*({said})") as caught:
            load_source(uri, label="image 3")
        assert BASE64[:20] not in str(caught.value)

    def test_the_length_is_known_before_decoding(self, monkeypatch):
        monkeypatch.setattr(base64, "b64decode", pytest.fail)
        with pytest.raises(SourceError, match="at most 10"):
            load_source(f"data:;base64,{BASE64}", rules=SourceRules(max_bytes=10))

    def test_the_limit_is_inclusive(self):
        rules = SourceRules(max_bytes=len(CAT))
        assert load_source(f"data:;base64,{BASE64}", rules=rules).data == CAT
        assert load_source(f"data:,{quote_from_bytes(CAT)}", rules=rules).data == CAT

    def test_what_json_makes_of_bytes_is_the_same_input(self):
        import pydantic

        adapter = pydantic.TypeAdapter(ImageRequest)
        request = ImageRequest("a cat", images=(CAT,))
        back = adapter.validate_json(adapter.dump_json(request))
        assert load_request(back).key(**WHERE) == load_request(request).key(**WHERE)


class TestS3:
    @pytest.mark.parametrize("key", ["in/cat.png", "a b/ä?x=1#y%20.png"])
    def test_is_read_as_it_is_written(self, key):
        bucket = Bucket()
        assert load_source(f"s3://shop/{key}", read_s3=bucket).sha256 == CAT_SHA256
        assert bucket.asked == [("shop", key, SourceRules().max_bytes)]

    @pytest.mark.parametrize("source", ["s3://shop/in/cat.png", uploaded()])
    def test_without_a_location_says_what_to_pass(self, source):
        with pytest.raises(SourceError, match=r"s3://shop/in/cat\.png .*source= an S3Location"):
            load_source(source)

    @pytest.mark.parametrize(
        "uri",
        ["s3://", "s3://shop", "s3://shop/", "s3:///cat.png", "s3://AKIA:hidden@shop/cat.png", "s3://a b/cat.png"],
    )
    def test_addresses_without_bucket_or_key(self, uri):
        with pytest.raises(SourceError, match="s3://bucket/key") as caught:
            load_source(uri, read_s3=Bucket())
        assert "hidden" not in str(caught.value)

    def test_a_reader_that_ignores_the_limit_is_held_to_it(self):
        with pytest.raises(SourceError, match="at most 10"):
            load_source("s3://shop/in/cat.png", read_s3=Bucket(), rules=SourceRules(max_bytes=10))


class TestEarlierResults:
    def test_an_uploaded_image_is_read_from_its_bucket(self):
        loaded = load_source(uploaded(), read_s3=Bucket(), label="image 2")
        assert loaded == LoadedImage(CAT, CAT_SHA256, "image/png", "s3://shop/in/cat.png")

    def test_an_object_that_was_replaced_is_refused(self):
        with pytest.raises(SourceError, match="has changed") as caught:
            load_source(uploaded(png(grey=9)), read_s3=Bucket())
        assert CAT_SHA256 in str(caught.value)

    def test_a_generated_image_is_read_from_where_it_is_staged(self, tmp_path):
        image = generated()
        (tmp_path / "n1n").mkdir()
        (tmp_path / image.storage_key).write_bytes(CAT)
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
            assert load_source(image, label="image 2") == LoadedImage(CAT, CAT_SHA256, "image/png", "image 2")

    def test_a_generated_image_that_is_gone(self, tmp_path):
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}), pytest.raises(StagingError, match="gone"):
            load_source(generated())


class TestHttps:
    def test_is_fetched_and_named_without_its_query(self):
        asked = []

        def fetch(url, rules):
            asked.append((url, rules))
            return CAT

        rules = SourceRules(max_bytes=1000)
        url = "https://images.example.com/a/cat.gif?X-Amz-Signature=hidden#part"
        loaded = load_source(url, rules=rules, fetch=fetch)
        assert loaded == LoadedImage(CAT, CAT_SHA256, "image/png", "images.example.com/a/cat.gif")
        assert asked == [(url, rules)]

    def test_a_login_page_in_place_of_an_image(self):
        with pytest.raises(SourceError, match=r"h\.example/cat\.png is no image.*HTML") as caught:
            load_source("HTTPS://h.example/cat.png?sig=hidden", fetch=lambda *_: b"\n<!doctype html>hidden")
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("url", ["https://127.0.0.1/cat.png", "https://[::1]:8443/", "https://0x7f.1/"])
    def test_is_guarded_by_default(self, url):
        with pytest.raises(SourceError, match="public internet"):
            load_source(url)

    def test_rules_can_limit_a_fetch_alone(self):
        with pytest.raises(SourceError, match="public internet"):
            fetch_https("https://169.254.169.254/latest/meta-data/", SourceRules(max_bytes=10))


class TestWhatWasRead:
    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
    def test_the_type_is_the_one_of_the_bytes(self, folder, media_type):
        (folder / "misnamed.gif").write_bytes(encoded(media_type))
        assert load_source("misnamed.gif").media_type == media_type

    @pytest.mark.parametrize("media_type", ["image/gif", "image/bmp", "image/tiff"])
    def test_types_that_the_models_do_not_take(self, folder, media_type):
        (folder / "misnamed.png").write_bytes(encoded(media_type))
        with pytest.raises(SourceError, match=rf"misnamed\.png is {media_type}; .*image/webp.*Convert"):
            load_source("misnamed.png")

    def test_avif(self):
        with pytest.raises(SourceError, match="is image/avif"):
            load_source(struct.pack(">I4s4sI", 20, b"ftyp", b"avif", 0) + b"mif1")

    @pytest.mark.parametrize("data", [b"", b"\x89PNG", b"hidden text", b"<svg>hidden</svg>", bytes(100), b"BMhidden"])
    def test_what_is_no_image_is_not_shown(self, data):
        with pytest.raises(SourceError, match=f"{len(data)} bytes") as caught:
            load_source(data)
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
    @pytest.mark.parametrize("share", [0.5, 0.95])
    def test_a_truncated_one(self, media_type, share):
        data = encoded(media_type)
        with pytest.raises(SourceError, match="truncated"):
            load_source(data[: int(len(data) * share)])

    def test_a_damaged_one(self):
        with pytest.raises(SourceError, match="damaged"):
            load_source(CAT.replace(b"IDAT", b"IDAT", 1)[:45] + b"\xff" + CAT[46:])

    def test_a_bomb(self):
        with pytest.raises(SourceError, match=f"more than {inspection.MAX_PIXELS} pixels"):
            load_source(png(60_000, 60_000))


class TestMistakes:
    @pytest.mark.parametrize(
        ("source", "said"),
        [
            (PIL.Image.new("RGB", (2, 2)), "'Image'.*path or bytes"),
            (array.array("B", [1, 2]), "'array'.*path or bytes"),
            (io.BytesIO(CAT), r"'BytesIO'.*\.read\(\)"),
            (bytearray(CAT), r"'bytearray'.*bytes\("),
            (memoryview(CAT), r"'memoryview'.*bytes\("),
            ({"uri": "hidden"}, "'dict'.*local path"),
            (None, "'NoneType'.*local path"),
            (7, "'int'.*local path"),
            (["cat.png"], "'list'.*one flat list"),
            (("cat.png",), "'tuple'.*one flat list"),
            (ImageOutcome("SKU-1", "refused", "hidden"), r"'ImageOutcome'.*\.image or its \.uploaded"),
            (ImageRequest("a cat"), "'ImageRequest'.*local path"),
            ("", "names nothing"),
            (" \n", "names nothing"),
            ("cat.png\n", r"ends with '\\n'.*strip"),
            (" cat.png", "begins with ' '.*strip"),
            ("https://h.example/cat.png?sig=hidden\n", r"ends with '\\n'"),
            (BASE64, rf"{len(BASE64)} characters that looks like base64.*data:image/png;base64,"),
            (base64.b64encode(encoded("image/jpeg")).decode(), "base64"),
            (base64.encodebytes(CAT).decode(), "base64"),
            (f"image/png;base64,{BASE64}", "base64"),
            ("aGlkZGVu" * 1000, "8000 characters that looks like base64"),
            (Path("https://h.example/cat.png?sig=hidden"), "give an address as text"),
            (Path("s3://shop/cat.png"), "give an address as text"),
            (Path("file:///cat.png"), "give an address as text"),
            (Path(f"data:image/png;base64,{BASE64}"), "give an address as text"),
            ("https:/h.example/cat.png?sig=hidden", "all its slashes"),
        ],
    )
    def test_are_named_with_what_to_do(self, folder, source, said):
        with pytest.raises(InvalidRequestError, match=f"image 2.*{said}") as caught:
            load_source(source, label="image 2")
        assert "hidden" not in str(caught.value)
        assert len(str(caught.value)) < 500
        assert hash_of(source) is None

    def test_an_open_file(self, folder):
        with (folder / "cat.png").open("rb") as file, pytest.raises(InvalidRequestError, match="its path"):
            load_source(file)

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("http://h.example/cat.png?sig=hidden", "use https://"),
            ("HTTP://me:hidden@h.example/cat.png", "use https://"),
            ("file:///etc/passwd", "the plain path"),
            ("file:cat.png", "the plain path"),
            ("ftp://me:hidden/word@h.example/cat.png", "ftp: is no way"),
            ("gs://shop/cat.png", "gs: is no way"),
            ("azure-blob+x.1://shop/cat.png", "azure-blob"),
            ("javascript://h/%0Aalert()", "javascript: is no way"),
        ],
    )
    def test_other_schemes(self, folder, source, said):
        with pytest.raises(SourceError, match=said) as caught:
            load_source(source)
        assert "hidden" not in str(caught.value)


class TestAsSources:
    @pytest.mark.parametrize("one", ["cat.png", Path("cat.png"), CAT, generated(), uploaded()])
    def test_one_alone_is_a_list_of_one(self, one):
        assert as_sources(one) == as_sources([one]) == as_sources((one,)) == (one,)

    def test_nothing_is_read(self):
        assert as_sources(["no-such.png", "https://127.0.0.1/"]) == ("no-such.png", "https://127.0.0.1/")

    def test_none_at_all(self):
        assert as_sources([]) == ()

    @pytest.mark.parametrize(
        ("images", "said"),
        [
            (["cat.png", ["dog.png"]], "image 2 .*one flat list"),
            (["cat.png", None], "image 2 .*'NoneType'"),
            ({"cat.png"}, "image 1 .*one flat list"),
            ((name for name in ["cat.png"]), "image 1 .*'generator'"),
            ("cat.png\n", "image 1"),
            (PIL.Image.new("RGB", (2, 2)), "image 1 .*path or bytes"),
        ],
    )
    def test_mistakes(self, images, said):
        with pytest.raises(InvalidRequestError, match=said):
            as_sources(images)


class TestLoadRequest:
    def test_reads_every_input_in_order(self, folder):
        dog = png(grey=200)
        request = ImageRequest(
            "both", images=("cat.png", dog, "https://h.example/x.png", "s3://shop/in/cat.png", uploaded())
        )
        loaded = load_request(request, read_s3=Bucket(), fetch=lambda *_: dog)
        assert loaded.request is request
        assert [image.label for image in loaded.images] == [
            "cat.png", "image 2", "h.example/x.png", "s3://shop/in/cat.png", "s3://shop/in/cat.png",
        ]  # fmt: skip
        assert [image.data for image in loaded.images] == [CAT, dog, dog, CAT, CAT]

    def test_without_inputs_reads_nothing(self):
        assert load_request(ImageRequest("a cat")).images == ()

    def test_a_mistake_is_found_before_anything_is_read(self):
        bucket = Bucket()
        with pytest.raises(InvalidRequestError, match="image 2"):
            load_request(ImageRequest("both", images=("s3://shop/in/cat.png", "")), read_s3=bucket)
        assert bucket.asked == []

    def test_the_limit_holds_for_all_inputs_together(self):
        bucket = Bucket()
        request = ImageRequest("many", images=("s3://shop/in/cat.png",) * 1000)
        with pytest.raises(SourceError, match=f"{3 * len(CAT)} bytes or more together"):
            load_request(request, read_s3=bucket, rules=SourceRules(max_bytes=2 * len(CAT)))
        assert len(bucket.asked) == 3

    def test_the_key_is_the_one_of_the_hashes(self, folder):
        request = ImageRequest("a cat", images=("cat.png", CAT))
        expected = request_key(request, [CAT_SHA256, CAT_SHA256], **WHERE)
        assert load_request(request).key(**WHERE) == expected

    def test_the_key_does_not_depend_on_where_an_input_comes_from(self, folder):
        sources = ["cat.png", folder / "cat.png", CAT, f"data:;base64,{BASE64}", "s3://shop/in/cat.png", uploaded()]
        requests = [ImageRequest("a cat", images=(source,)) for source in sources]
        assert len({load_request(request, read_s3=Bucket()).key(**WHERE) for request in requests}) == 1

    def test_the_key_follows_the_content_of_a_file(self, folder):
        request = ImageRequest("a cat", images=("cat.png",))
        before = load_request(request).key(**WHERE)
        (folder / "cat.png").write_bytes(png(grey=1))
        assert load_request(request).key(**WHERE) != before


class TestHashOf:
    @pytest.mark.parametrize(
        "source", [CAT, f"data:image/png;base64,{BASE64}", generated(), uploaded(), uploaded(sha256=CAT_SHA256.upper())]
    )
    def test_of_what_carries_it(self, source):
        assert hash_of(source) == CAT_SHA256

    @pytest.mark.parametrize(
        "source",
        ["cat.png", Path("cat.png"), "https://h.example/x.png", "s3://shop/in/cat.png", "", None, 7, [CAT], object(),
         "data:", "data:;base64,?", "data:,\ud800", uploaded(sha256=""), uploaded(sha256="x" * 64)],
    )  # fmt: skip
    def test_of_anything_else(self, folder, source):
        assert hash_of(source) is None

    def test_is_what_loading_finds(self):
        for source in (CAT, f"data:;base64,{BASE64}", uploaded()):
            assert hash_of(source) == load_source(source, read_s3=Bucket()).sha256
