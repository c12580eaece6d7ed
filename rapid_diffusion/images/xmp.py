"""The AI-content label in XMP, where GB 45438-2025 wants it, as secondary sources describe it.

Namespace `http://www.tc260.org.cn/ns/AIGC/1.0/`, prefix `TC260`, key `AIGC`; the packet follows the
XMP specification, part 1 (ISO 16684-1), and stands where part 3 puts it: PNG's `iTXt`, JPEG's APP1,
WebP's `XMP ` chunk.
"""

import html
import re
from typing import Any

from PIL import Image

PNG_KEY = "XML:com.adobe.xmp"
NAMESPACE = "http://www.tc260.org.cn/ns/AIGC/1.0/"

_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:TC260="{NAMESPACE}">'
    "<TC260:AIGC>{}</TC260:AIGC>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)
# As an element or as an attribute: both are the same to XMP. Not parsed as XML, which foreign
# files could make costly.
_FOUND = re.compile(r"<TC260:AIGC>([^<]*)</TC260:AIGC>|\bTC260:AIGC=(?:\"([^\"]*)\"|'([^']*)')")


def label_packet(label: str) -> str:
    """The packet whose `TC260:AIGC` is `label`, a text without control characters."""
    return _PACKET.replace("{}", html.escape(label, quote=False))


def packet_label(picture: Image.Image) -> str | None:
    """The `TC260:AIGC` of the packet in a picture that was opened and loaded; None without one."""
    packet: Any = picture.info.get(PNG_KEY) or picture.info.get("xmp") or ""
    if isinstance(packet, bytes):
        packet = packet.decode("utf-8", "replace")
    found = _FOUND.search(str(packet))
    return (
        None if found is None else html.unescape(next(g for g in found.groups() if g is not None))
    )
