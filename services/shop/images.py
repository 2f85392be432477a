"""Images for products without one: an inline SVG drawn from title and category, always the same."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup

# By colour word of the title: (hue, saturation %, lightness shift %). Without one, the category decides.
COLOURS = {
    "red": (4, 62, 0), "pink": (342, 58, 6), "blush": (350, 48, 8), "rose": (346, 52, 4),
    "orange": (26, 70, 2), "terracotta": (16, 52, -2), "mustard": (43, 66, -2), "gold": (42, 60, 2),
    "yellow": (47, 76, 6), "green": (142, 36, -2), "sage": (115, 20, 2), "turquoise": (178, 48, 0),
    "blue": (212, 52, 0), "sky": (202, 58, 8), "navy": (222, 44, -14), "purple": (278, 38, 0),
    "plum": (312, 32, -8), "lilac": (270, 40, 10), "brown": (24, 32, -10), "chocolate": (22, 40, -16),
    "wooden": (32, 38, 0), "black": (220, 8, -26), "charcoal": (215, 10, -20), "silver": (210, 10, 8),
    "grey": (210, 8, 0), "ivory": (44, 36, 16), "cream": (44, 40, 16), "white": (205, 18, 18),
}  # fmt: skip

PATTERNS = (
    (r"polka|spot|retrospot|dot", '<circle cx="10" cy="10" r="3"/><circle cx="30" cy="30" r="3"/>', 40),
    (r"strip|nautical|gingham", '<path d="M0 0h40v14H0z"/>', 40),
    (r"floral|flower|paisley|rose|daisy|poppy", '<path d="M20 12a5 5 0 1 1 0 10 5 5 0 0 1 0-10z"/>', 40),
    (r"star|christmas|space", '<path d="M12 6l2 5 5 .5-4 3 1 5-4-2.500-4 2.500 1-5-4-3 5-.5z"/>', 34),
)  # fmt: skip
PLAIN = ('<path d="M0 36L36 0h4L0 40z"/>', 40)


@lru_cache(maxsize=1)
def shapes() -> tuple[tuple[str, str], ...]:
    """(regular expression of words, drawing) of each shape in shapes.svg; the last one matches everything."""
    drawings = ElementTree.parse(Path(__file__).with_name("shapes.svg")).getroot()
    return tuple(
        (
            group.get("data-words", ""),
            "".join(ElementTree.tostring(part, "unicode").strip() for part in group),
        )
        for group in drawings
    )


def seed(text: str) -> int:
    """A number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])


def colour(title: str, category: str) -> tuple[int, int, int]:
    """(hue, saturation, lightness shift) from a colour word of the title, else from the category."""
    words = re.findall(r"[a-z]+", title.lower())
    named = next((COLOURS[word] for word in words if word in COLOURS), None)
    return named or (seed(category or title) * 47 % 360, 38, 2)


@lru_cache(maxsize=8_192)
def product_image(item_id: str, title: str, category: str) -> Markup:
    """The image as SVG. Title and category choose shape and colour; their text is not in the markup."""
    ink, number = inks(*colour(title, category)), seed(item_id)
    text, name = f"{title} {category}".lower(), f"t{number:x}"
    return Markup(
        f'<svg class="product-image" viewBox="0 0 100 100" aria-hidden="true" focusable="false">'
        f"<defs>{_pattern(name, number % 40, text, ink['m'])}</defs>"
        f'<path fill="{ink["backdrop"]}" d="M0 0h100v100H0z"/><path fill="url(#{name})" d="M0 0h100v100H0z"/>'
        f'<ellipse cx="50" cy="79" rx="29" ry="4" fill="{ink["d"]}" opacity=".16"/>'
        f'<g transform="rotate({number % 13 - 6} 50 52)">{_shape(text).format(**ink)}</g></svg>'
    )


def inks(hue: int, saturation: int, shift: int) -> dict[str, str]:
    """Dark, medium and light tone of a colour, and its backdrop."""
    return {
        "d": f"hsl({hue} {saturation}% {34 + shift // 3}%)",
        "m": f"hsl({hue} {saturation}% {56 + shift // 2}%)",
        "l": f"hsl({hue} {max(12, saturation - 14)}% {84 + shift // 4}%)",
        "backdrop": f"hsl({(hue + 18) % 360} {saturation // 2 + 6}% {91 + shift // 8}%)",
    }


def _shape(text: str) -> str:
    return next(art for words, art in shapes() if not words or re.search(rf"\b(?:{words})", text))


def _pattern(name: str, turn: int, text: str, ink: str) -> str:
    art, size = next(((a, s) for words, a, s in PATTERNS if re.search(words, text)), PLAIN)
    return (
        f'<pattern id="{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate({turn} 50 50) scale(.62)">'
        f'<g fill="{ink}" opacity=".16">{art}</g></pattern>'
    )
