"""What an image says of how it was made, for one that is derived from it.

The packet is written anew: the original's own XMP also describes its size and orientation, which change.
"""

import re
from collections.abc import Mapping

from n1n_prefect.containers import Block, blocks_of
from n1n_prefect.inspection import Inspection

_CREDIT = "Made with Google AI"
_SOURCE_TYPE = re.compile(rb"/digitalsourcetype/(\w{1,64})")
# XMP first, then C2PA, by what PNG, JPEG, WebP and the ISO formats call their blocks.
_SAY_SOURCE = ("iTXt", "APP1", "XMP ", "caBX", "APP11", "C2PA", "uuid")


def provenance_xmp(data: bytes, seen: Inspection) -> bytes:
    """An XMP packet that says of a variant what is said of its original; empty where that is nothing.

    Args:
        data: The original's whole file.
        seen: What it was found to be.
    """
    said: Mapping[str, str] = {
        "photoshop:Credit": _CREDIT if _CREDIT in seen.provenance else "",
        "Iptc4xmpExt:DigitalSourceType": _source_type(data, seen),
    }
    attributes = " ".join(f'{name}="{value}"' for name, value in said.items() if value)
    return _PACKET.format(attributes).encode() if attributes else b""


def _source_type(data: bytes, seen: Inspection) -> str:
    """The IPTC address of how the original came about; of several that of a model's work, which nothing may hide."""
    blocks = sorted(
        (block for block in blocks_of(data, seen.media_type) if block.name in _SAY_SOURCE),
        key=lambda block: _SAY_SOURCE.index(block.name),
    )
    types = [found for block in blocks for found in _types_in(data, block)]
    chosen = next((found for found in types if "lgorithmicMedia" in found), types[0] if types else "")
    return f"http://cv.iptc.org/newscodes/digitalsourcetype/{chosen}" if chosen else ""


def _types_in(data: bytes, block: Block) -> list[str]:
    return [found[1].decode() for found in _SOURCE_TYPE.finditer(data, block.start, block.end)]


_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {}/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
