"""Makes the font that pictures with Chinese labels fall back on, from Noto Sans CJK (SIL Open Font License 1.1).

    apt-get install -y fonts-noto-cjk        # 1:20220127+repack1-1 was used
    pip install fonttools
    python tools/fonts/subset.py /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc

It keeps the 3,755 characters of GB 2312 level 1, CJK punctuation and full-width forms, under a family name of its own:
pictures are then the same on every machine, whatever is installed there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection, TTFont

FAMILY = "Holdfast Han"
TARGET = Path(__file__).parents[2] / "src/holdfast/evaluation/report/fonts/HoldfastHan-Regular.otf"
SOURCE = "Noto Sans CJK SC"


def wanted() -> set[int]:
    """The code points that are kept."""
    level_one = {ord(character) for row in range(0xB0, 0xD8) for character in _row(row)}
    return level_one | {*range(0x3000, 0x3020), *range(0xFF01, 0xFF5F), *map(ord, " ·—…‘’“”、。《》￥")}


def _row(row: int) -> str:
    return bytes(byte for cell in range(0xA1, 0xFF) for byte in (row, cell)).decode("gb2312", errors="ignore")


def subset(collection: Path) -> TTFont:
    """The font of simplified Chinese out of a collection, with what is wanted of it alone."""
    fonts = TTCollection(collection).fonts
    font = next(font for font in fonts if font["name"].getDebugName(1) == SOURCE)
    options = Options(hinting=False, layout_features=[], name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14], notdef_outline=True)
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=wanted())
    subsetter.subset(font)
    _rename(font)
    return font


def _rename(font: TTFont) -> None:
    """Its own names, so that nobody takes it for the whole font; copyright and licence stay."""
    plain = FAMILY.replace(" ", "") + "-Regular"
    names = {1: FAMILY, 2: "Regular", 3: f"{plain}, a subset of {SOURCE}", 4: FAMILY, 6: plain}
    for record in list(font["name"].names):
        if record.nameID in names:
            record.string = names[record.nameID]
    top = font["CFF "].cff
    top.fontNames[0] = top[0].FullName = plain
    top[0].FamilyName = FAMILY


if __name__ == "__main__":
    made = subset(Path(sys.argv[1]))
    TARGET.parent.mkdir(exist_ok=True)
    made.save(TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, {len(made.getBestCmap()):,} characters")
