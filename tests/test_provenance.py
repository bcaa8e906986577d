from xml.etree import ElementTree as ET

import pytest

from n1n_prefect.inspection import inspect
from n1n_prefect.provenance import provenance_xmp
from tests.image_files import chunk, encoded, jpeg_with, photo, png_with, segment

ADDRESS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
CREDIT = "{http://ns.adobe.com/photoshop/1.0/}Credit"


def xmp(*types, credit=""):
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{credit}{" ".join(ADDRESS + name for name in types)}</x:xmpmeta>'.encode()
    )


def said(data):
    packet = provenance_xmp(data, inspect(data))
    if not packet:
        return {}
    description = next(ET.fromstring(packet.decode().split("?>", 1)[1].rsplit("<?", 1)[0]).iter(), None)
    return {name: value for element in description.iter() for name, value in element.items() if value}


def itxt(payload):
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + payload)


FILES = {
    "XMP of a PNG": png_with(itxt(xmp("trainedAlgorithmicMedia"))),
    "XMP of a JPEG": jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp("trainedAlgorithmicMedia"))),
    "XMP of a WebP": encoded(photo(), "WEBP", xmp=xmp("trainedAlgorithmicMedia")),
    "C2PA of a PNG": png_with(chunk(b"caBX", b"jumb c2pa actions" + xmp("trainedAlgorithmicMedia"))),
    "C2PA of a JPEG": jpeg_with(segment(0xEB, b"JP\0\1 jumb c2pa " + xmp("trainedAlgorithmicMedia"))),
}


class TestSourceType:
    @pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
    def test_is_said_again(self, data):
        assert said(data)[TYPE] == f"{ADDRESS}trainedAlgorithmicMedia"

    @pytest.mark.parametrize(
        ("types", "chosen"),
        [
            (("digitalCapture", "compositeWithTrainedAlgorithmicMedia"), "compositeWithTrainedAlgorithmicMedia"),
            (("digitalCapture", "minorHumanEdits"), "digitalCapture"),
        ],
    )
    def test_of_several_a_model_s_is_told(self, types, chosen):
        assert said(png_with(itxt(xmp(*types))))[TYPE] == ADDRESS + chosen

    def test_xmp_before_c2pa(self):
        data = png_with(chunk(b"caBX", xmp("algorithmicMedia")), itxt(xmp("trainedAlgorithmicMedia")))
        assert said(data)[TYPE] == f"{ADDRESS}trainedAlgorithmicMedia"

    @pytest.mark.parametrize("payload", [b'prompt\0a "b" ' + xmp("algorithmicMedia"), b"prompt\0hello"])
    def test_a_prompt_in_a_text_chunk_says_nothing(self, payload):
        assert said(png_with(chunk(b"tEXt", payload))) == {}

    def test_nothing_but_letters_gets_in(self):
        data = png_with(itxt(b'<x:xmpmeta>http://x/digitalsourcetype/media"/><evil a="</x:xmpmeta>'))
        assert said(data)[TYPE] == f"{ADDRESS}media"
        assert b"evil" not in provenance_xmp(data, inspect(data))


class TestCredit:
    def test_is_said_again_from_wherever_it_stands(self):
        data = png_with(chunk(b"tEXt", b"Credit\0Made with Google AI"))
        assert said(data)[CREDIT] == "Made with Google AI"
        assert TYPE not in said(data)


def test_nothing_where_nothing_was_said():
    data = encoded(photo(), "PNG")
    assert provenance_xmp(data, inspect(data)) == b""
