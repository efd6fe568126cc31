"""Captions that are not UTF-8: read in their encoding, or reported; never as garbage."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dreambooth.captions.encodings import recognize_text
from dreambooth.captions.reading import decode_caption
from dreambooth.dataset.planning import make_plan
from dreambooth.errors import UserError
from dreambooth.settings import Concept, Settings
from tests.images.odd_images import encoded, noise

SIMPLIFIED = [
    "蓝色的汽车, 城市街道",
    "一个穿着红色裙子的女孩",
    "1girl, 长发, 微笑, 户外",
    "zwx 玩具在桌子上",
    "水彩画风格的风景",
]
TRADITIONAL = [
    "藍色的汽車, 城市街道",
    "一個穿著紅色裙子的女孩",
    "1girl, 長髮, 微笑",
    "zwx 玩具在桌子上",
    "水彩畫風格的風景",
]
JAPANESE = [
    "青い車、街の通り",
    "赤いドレスを着た女の子",
    "1girl, ロングヘア, 笑顔",
    "机の上のおもちゃ",
    "水彩画風のイラスト",
]
KOREAN = ["파란색 자동차, 도시의 거리", "빨간 드레스를 입은 소녀", "책상 위에 있는 zwx 장난감", "수채화 풍경"]
CYRILLIC = [
    "синяя машина на улице",
    "Девушка в красном платье",
    "1girl, короткие волосы",
    "ИГРУШКА zwx на столе",
    "синє небо",
]
WESTERN = [
    "une poupée à côté d’une fenêtre",
    "ein grünes Auto – “schön”",
    "niña pequeña, corazón",
    "blåbær på bordet",
    "São Paulo",
]
LANGUAGES = {
    "gbk": SIMPLIFIED, "gb18030": SIMPLIFIED, "big5": TRADITIONAL, "shift_jis": JAPANESE, "euc_jp": JAPANESE,
    "euc_kr": KOREAN, "cp1251": CYRILLIC, "cp1252": WESTERN,
    "utf-16-le": [*JAPANESE, *KOREAN, *CYRILLIC, *WESTERN, "a red toy"],
    "utf-16-be": [*SIMPLIFIED[2:4], *WESTERN, "a toy"],
}  # fmt: skip
NOT_RECOGNIZED = {
    "koi8-r": CYRILLIC[:3], "iso8859-5": CYRILLIC[:3], "cp866": CYRILLIC[:3],
    "cp1253": ["κόκκινο παιχνίδι", "γάτα στο τραπέζι"], "cp1255": ["ילדה עם שיער ארוך"],
    "cp1256": ["فتاة ذات شعر طويل"],
    "cp874": ["ผู้หญิงผมยาว"], "cp1254": ["kırmızı oyuncak", "ağaç altında"],
    "cp1250": ["czerwona zabawka na białym tle", "červená hračka", "őszi erdő, fehér háttér"],
}  # fmt: skip


@pytest.mark.parametrize("encoding", LANGUAGES)
def test_the_encoding_of_a_caption_is_recognized(encoding: str) -> None:
    for text in LANGUAGES[encoding]:
        found, name, _ = recognize_text(text.encode(encoding))
        assert found == text and name, text


@pytest.mark.parametrize("encoding", NOT_RECOGNIZED)
def test_other_encodings_are_not_read_as_something_else(encoding: str) -> None:
    for text in NOT_RECOGNIZED[encoding]:
        found, _, _ = recognize_text(text.encode(encoding))
        assert found in ("", text)


def test_a_recognized_text_is_never_another_one() -> None:
    rng = random.Random(4)
    for encoding, texts in LANGUAGES.items():
        for _ in range(100):  # short pieces, where there is little to go by
            start = rng.choice(texts)
            place = rng.randrange(len(start))
            text = start[place : place + rng.randrange(2, 6)]
            found, _, _ = recognize_text(text.encode(encoding))
            n_telling = sum(not sign.isascii() for sign in text)
            assert found in ("", text) or n_telling == 1, (encoding, text, found)


def test_damaged_utf8_is_not_read_as_another_encoding() -> None:
    for text in (*SIMPLIFIED, *JAPANESE, *CYRILLIC, "“a toy” – it’s red"):
        data = text.encode()
        for broken in (data[:-1] if data[-1] > 127 else data[:-2] + b"\xe5", data[:4] + b"\xff" + data[4:]):
            with pytest.raises(UserError, match=r"a\.txt: is not UTF-8"):
                decode_caption(broken, Path("a.txt"))


def test_a_folder_of_mixed_encodings(tmp_path: Path) -> None:
    captions = {
        "chinese": SIMPLIFIED[0].encode("gbk"), "japanese": JAPANESE[1].encode("cp932"), "plain": b"a red toy",
        "marked": WESTERN[0].encode("utf-16"), "unmarked": "a blue toy".encode("utf-16-le"),
        "short": "龙".encode("gbk"),
        "random": bytes([0x81, 0xFF, 0x8D, 0x9D, 0xF3]),
    }  # fmt: skip
    for number, (name, data) in enumerate(captions.items()):
        (tmp_path / f"{name}.png").write_bytes(encoded(noise(number), "PNG"))
        (tmp_path / f"{name}.txt").write_bytes(data)
    plan = make_plan([Concept(instance_data_dir=str(tmp_path))], Settings(resolution=128))
    assert {example.path.stem: example.caption for example in plan.examples} == {
        "chinese": SIMPLIFIED[0], "japanese": JAPANESE[1], "plain": "a red toy", "marked": WESTERN[0],
        "unmarked": "a blue toy",
    }  # fmt: skip
    read, left_out = ([i for i in plan.issues if i.kind == kind] for kind in ("caption-encoding", "caption-unreadable"))
    assert {issue.path.stem: issue.detail for issue in read} == {
        "chinese": "GBK", "japanese": "Shift JIS", "unmarked": "UTF-16",
    }  # fmt: skip
    assert {issue.path.stem for issue in left_out} == {"short", "random"}
    assert all("Save it as UTF-8" in issue.text and issue.path.stem in issue.text for issue in left_out)
    assert any("(GBK)" in warning and "(Shift JIS)" in warning for warning in plan.warnings)
