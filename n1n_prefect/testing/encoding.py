"""An image's bytes, with the marks of generated images that the real service leaves in them.

Pillow's own PNG writer tries every filter on every row, twice the time this one takes.
"""

import base64
import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

PNG_HEAD = 33  # bytes of signature and IHDR: chunks may be put in here
JPEG_QUALITY = 98

_XMP = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" photoshop:Credit="Made with Google AI"
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def encode(image: "Image", media_type: str) -> bytes:
    """A PNG or JPEG file of the image, marked as generated."""
    if media_type == "image/png":
        return _png(image)
    file = BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    head, rest = split(file.getvalue())
    return head + _segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP) + rest


def split(data: bytes) -> tuple[bytes, bytes]:
    """The file's fixed head and its rest; between the two a chunk or segment may be put."""
    if data.startswith(b"\x89PNG"):
        return data[:PNG_HEAD], data[PNG_HEAD:]
    end = 4 + int.from_bytes(data[4:6], "big")  # after the JFIF segment, which must stay first
    return data[:end], data[end:]


def commented_base64(head: bytes, comment: str, rest_base64: str) -> str:
    """The base64 of a file with a comment put in after its head, at the cost of the head alone.

    The comment is padded with spaces to where base64 of the rest can simply follow.
    """
    front = head + _comment(head, comment)
    if short := -len(front) % 3:
        front = head + _comment(head, comment + " " * short)
    return base64.b64encode(front).decode() + rest_base64


def _comment(head: bytes, text: str) -> bytes:
    if head.startswith(b"\x89PNG"):
        return _chunk(b"tEXt", b"Comment\0" + text.encode())
    return _segment(0xFE, text.encode())


def _png(image: "Image") -> bytes:
    width, height = image.size
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    marks = b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP
    chunks = ((b"IHDR", header), (b"iTXt", marks), (b"IDAT", _deflated(image)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _deflated(image: "Image") -> bytes:
    from PIL import Image, ImageChops

    left = Image.new("RGB", image.size)
    left.paste(image, (1, 0))
    differences = ImageChops.subtract_modulo(image, left).tobytes()
    row = image.width * 3
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    filtered = b"".join(b"\x01" + differences[start : start + row] for start in range(0, len(differences), row))
    return compressor.compress(filtered) + compressor.flush()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
