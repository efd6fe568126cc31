"""Text of caption files that are not UTF-8: the encoding is recognized where one is far more likely than all others.

Old tools save captions in the encoding of the system's language, and nothing in the file says which. Each candidate
that can decode all bytes gets the likelihood of its text, from how often the characters of its language are used. A
naive model is enough: text in a wrong encoding consists of rare characters, symbols, and letters of mixed case.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

_MARGIN = 5.0  # by which the log likelihood of the best candidate must exceed that of the next one
_ENOUGH = 1500  # bytes that are looked at; captions are shorter

_HANZI = (
    "的一是不了在人有我他个中上大为和国地到以说时要就出会可也你生能而子那得于着下自之年发后作里用道行所然家种成方多经去学如同现没"
    "动面起看定天分还进好小其些主样理心她本前开但因只从想实日者意无力它与长把机十第公此已工使情明性知全三又关点正外将两高间由问很"
    "最重手应头文体美相见被什二等新己身果加西月话合回特代内信表化老给世位次度门常先海通教儿东声提立比水名真走各入口几花女男红绿蓝"
    "黄黑白灰紫粉橙棕色玩具背景桌衣服裙裤鞋帽眼睛脸嘴笑站坐躺跑穿戴拿臂腿脚孩少青猫狗鸟马龙房屋树木草叶山河湖云雪雨夜光阳影室窗床"
    "椅书包车路城市街风格画像照片漫插图写侧半近远镜孤独爱漂亮初音未来张王李陈刘裸肩短直卷双单尾辫蝴蝶结耳环项链罩校制泳装婚纱旗袍"
    "汉武器剑刀枪盾翅膀魔法火焰晶宝石金银铁布皮毛绒玻璃瓷塑料杯碗盘蛋糕苹边落古宫殿建筑战士甲台舞歌唱咖啡瓶虎狼熊鱼兔鸡牛羊猪蛇象"
    "狮猴狐桥塔楼墙顶院庭柱场港船飞轮骑兵仙妖鬼神佛僧侠争军队盔械科幻赛博朋克霓虹灯典抽油素描墨铅笔雕复梦暗柔质量佳杰肖俯视仰跪蹲"
    "趴奔跳跃翔游睡觉吃饭喝茶运球足篮"
)
_HANZI_TRADITIONAL = (
    "的一是不了在人有我他個中上大為和國地到以說時要就出會可也你生能而子那得於著下自之年發後作裡用道行所然家種成方多經去學如同現沒"
    "動面起看定天分還進好小其些主樣理心她本前開但因只從想實日者意無力它與長把機十第公此已工使情明性知全三又關點正外將兩高間由問很"
    "最重手應頭文體美相見被什二等新己身果加西月話合回特代內信表化老給世位次度門常先海通教兒東聲提立比水名真走各入口幾花女男紅綠藍"
    "黃黑白灰紫粉橙棕色玩具背景桌衣服裙褲鞋帽髮眼睛臉嘴笑站坐躺跑穿戴拿臂腿腳孩少青貓狗鳥馬龍房屋樹木草葉山河湖雲雪雨夜光陽影室窗"
    "床椅書包車路城市街風格畫像照片漫插圖寫側半近遠鏡孤獨愛漂亮初音未來張王李陳劉裸肩短直捲雙單尾辮蝴蝶結耳環項鍊罩校制泳裝婚紗旗"
    "袍漢武器劍刀槍盾翅膀魔法火焰晶寶石金銀鐵布皮毛絨玻璃瓷塑料杯碗盤蛋糕蘋邊落古宮殿建築戰士甲台舞歌唱咖啡瓶虎狼熊魚兔雞牛羊豬蛇"
    "象獅猴狐橋塔樓牆頂院庭柱場港船飛輪騎兵仙妖鬼神佛僧俠爭軍隊盔械科幻賽博朋克霓虹燈典抽油素描墨鉛筆雕復夢暗柔質量佳傑肖俯視仰跪"
    "蹲趴奔跳躍翔游睡覺吃飯喝茶運球足籃品級員投籠"
)
_KANJI = (
    "日一国人年大十二本中長出三時行見月分後前生五間上東四今金九入学高円子外八六下来気小七山話女北午百書先名川千水半男西電校語土木"
    "聞食車何南万毎白天母火右読友左休父雨赤青黄黒緑紫茶色髪目眼顔口耳手足肩腕服制帽靴鏡背景机椅窓部屋室内空海森花猫犬鳥馬少美可愛"
    "笑立座歩走着持正面横全身写真絵画風街夜朝夕雪光影初音未短重単玩具玉桜物浴衣剣武器翼羽魔法使点交差谷駅橋塔城寺神社湖紅葉狼狐虎"
    "竜騎士姫王巫忍者侍刀鎧機械都古遺跡廃墟油墨肖像品質兎魚熊牛羊豚蛇象焼夏冬春秋嵐波浜岸島路道店館門根階段灯星太陽瓶酒飯肉果野菜"
    "供性若老々"
)
_HANGUL = (
    "이다는을의에가한고하를로은기사지도어자인그나리아해서대시들수있었부정상스일보장주제으과면여것전게라안비만오동소성구신공우국경"
    "원세미방간연화관조유선위무회물생문말마모분개용내학되된할했적중거네야요와까때데두명몸바밖밤밝배백벽별병복볼불붉빨빛산살새색석"
    "설손순숲식실심쓰앉않알앞양얼없열영예옷왕외운월음입작잔재저점족종좌진집차창책처천첫청체초추출치카커코크큰타태테토통트특티파팔"
    "패평포표푸풀품프피필함합행향허현형호홍확환황효후흑흰희히힘강건검겨결계곡곰광교군극근글금급긴길김깊깨꽃꿈끝끼난날남너널넣녀노"
    "녹놀높누눈늘능니님단달담당더덕독돌둘뒤드득든등디따떠또뜨란람랑래러런레려록론료루류르른름린림립머굴술블감얀갈년"
)
_CYRILLIC_PAIRS = (  # of letters in Russian and Ukrainian words, the frequent ones
    "ст но то на ен ов ни ра во ко ро по ос ер пр ре не ал ли от ел ан ка ет та ом ол те ва за го ор ть ло ог ри "
    "ве ле да ил ед де ат ит ла об ак ди ми ам ти ма од ме нн ск ой ки ня ям ий ый ая ое ее ые ие их ых ую юю ою "
    "ем им ым ях ах ью ья ье ке ку кр кл кн ик ок ук ек як гр гл га ге ги гу иг уг яг бр бл ба бе би бо бу бы аб "
    "еб иб уб вы ви ву вл вн вс ав ев ив ыв дв др ды ду дн дл дя ад ид уд юд же жи жа жн жк аж еж ож уж ыж зо зе "
    "зи зу зн зд аз ез из оз уз яз ай ей уй ын ин он ун юн ян йн йк мн мо му мы мя ум юм нк нт нг нц ны нь пе пи "
    "пл пу пы пя оп ап еп уп ип рт рк рн рс рм рд рг рв рб рж рш рч рю ры ру ря рь ир ур юр яр ыр сл св сн сп се "
    "си со су сы сь ся ас ес ис ус яс ыс тр тв тк тл тн ту ты тя ют ут ят фе фи фо фр ха хи хн хо ху хв ец иц ац "
    "ца це ци цв цо че чи чк чн чт чу ач еч ич оч уч яч ша ше ши шк шл шн шу аш еш иш ош уш ыш ща ще щи щу ящ ущ "
    "ющ ощ юб юк юс до ль лю лл лн ля лк лы лу ул ыл ял юл ае ео ия эт эк съ іг іш ві ні лі ті рі ів ін іт ід із "
    "їн ої ії дж ця ьк ьн ьс ьш ьм ьт йс йт шо зв"
)
_LATIN = "éèêëàâäáãåæçíìîïñóòôöõøúùûüýÿßœšžðþ"
_KNOWN_PAIRS = frozenset(_CYRILLIC_PAIRS.split())
_LATIN_LETTERS = frozenset(_LATIN + _LATIN.upper())
_TYPOGRAPHIC = "–—‘’“”…•€™©®°·×¡¿«»½¼¾²³£¥§\u00a0"
_IN_WORDS = "–—‘’“”…"  # may be next to a letter
# Letters of Central European, Turkish and other languages, read as Windows-1252: "hraèka", "aðaç", "erdõ".
_MISREAD = re.compile(
    "[ýþð]|õ(?!e)|œ(?![uiedcls])|\\bè(?!re)|è[aeiouykáí]|[ìø][áéíóú]|û.*[áöó]|[áöó].*û", re.IGNORECASE | re.DOTALL
)
_ONLY_ACCENTED = re.compile(  # a word of accented letters, or of a single one that is no word
    f"(?<![^\\W\\d_])(?:[{_LATIN}]{{2,}}|(?![àèéóåøö])[{_LATIN}])(?![^\\W\\d_])", re.IGNORECASE
)
_CJK_PUNCTUATION = "，。、；：？！“”‘’（）《》「」『』【】…—～·　"

_NOISE_PRIOR, _NOISE = 0.02, -5.0
# Log likelihood of an ASCII character, of what text hardly has, and the least of a common character.
_ASCII, _RARE, _COMMON = -3.4, -14.0, -7.8
_NO_TEXT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\ud800-\udfff\ue000-\uf8ff\uff61-\uff9f\ufff0-\uffff]")
_CYRILLIC_WORD = re.compile("[а-яёіїєґ]+", re.IGNORECASE)
_CAPITAL_INSIDE = re.compile("[а-яёіїєґ][А-ЯЁІЇЄҐ]|[A-Za-z][А-яЁёІіЇїЄє]|[А-яЁёІіЇїЄє][A-Za-z]")
_GLUED_IDEOGRAPH = re.compile("[A-Za-z][\u3041-\ud7af](?![\u3041-\ud7af])|(?<![\u3041-\ud7af])[\u3041-\ud7af][A-Za-z]")
_LONE_IDEOGRAPH = re.compile("(?<![\u3000-\ud7ff])[\u3400-\ud7af](?![\u3000-\ud7ff])(?=.*[A-Za-z])", re.DOTALL)


@dataclass(frozen=True)
class _Candidate:
    codec: str
    name: str  # for messages
    prior: float
    character: Callable[[str], float]  # log likelihood of a character that is not ASCII
    is_plausible: Callable[[str], bool]  # whether a text can be of its language at all
    is_wide: bool = True  # its characters have several bytes, and look like noise where the encoding is wrong


def recognize_text(data: bytes) -> tuple[str, str, tuple[str, ...]]:
    """(text, name of its encoding, ()), or ("", "", names of the encodings that it may have) where that is uncertain.

    ``data``: bytes that are not UTF-8.
    """
    if b"\0" not in data and _is_damaged_utf8(data):
        return "", "", ("damaged UTF-8",)
    scores: dict[str, tuple[float, _Candidate]] = {}
    for candidate in _candidates(data):
        text = _decoded(data[:_ENOUGH], candidate.codec, is_cut=len(data) > _ENOUGH)
        if text and not _NO_TEXT.search(text) and candidate.is_plausible(text):
            score = _score(text, candidate)
            if text not in scores or score > scores[text][0]:  # several encodings may give the same text
                scores[text] = score, candidate
    ranked = sorted(scores.values(), key=lambda pair: -pair[0])
    if not ranked:
        return "", "", ()
    best = ranked[0][1]
    text = _decoded(data, best.codec, is_cut=False)
    is_noise = ranked[0][0] < _score_of_noise(data[:_ENOUGH]) + _MARGIN or not _has_common(text, best.character)
    if best.is_wide and is_noise:
        return "", "", ()
    close = [candidate.name for score, candidate in ranked if ranked[0][0] - score < _MARGIN]
    return (text, best.name, ()) if text and len(close) == 1 else ("", "", tuple(close))


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether most of it is UTF-8: a character was cut, or text of another encoding was added."""
    text = data.decode("utf-8", "replace")
    n_damaged = text.count("\ufffd")
    return len([c for c in text if not c.isascii()]) - n_damaged >= 2 * n_damaged


def _candidates(data: bytes) -> tuple[_Candidate, ...]:
    if b"\0" in data:
        return _UTF_16
    return (*_EIGHT_BIT, *_UTF_16) if len(data) % 2 == 0 else _EIGHT_BIT


def _decoded(data: bytes, codec: str, is_cut: bool) -> str:
    for end in range(len(data), len(data) - (4 if is_cut else 1), -1):  # cut in the middle of a character
        try:
            return data[:end].decode(codec)
        except UnicodeDecodeError:
            continue
    return ""


def _score_of_noise(data: bytes) -> float:
    """The log likelihood of bytes that are in none of the encodings."""
    printable = range(0) if b"\0" in data else range(0x20, 0x7F)
    return math.log(_NOISE_PRIOR) + sum(_ASCII if byte in printable else _NOISE for byte in data)


def _score(text: str, candidate: _Candidate) -> float:
    score = math.log(candidate.prior) + sum(_ASCII if c.isascii() else candidate.character(c) for c in text)
    if candidate in _UTF_16:
        return score
    if candidate.codec == "cp1252":
        return score - 4 * len(re.findall(f"[{_LATIN}]{{2}}", text, re.IGNORECASE))
    glued = len(re.findall(r"(?<=[A-Za-z])[^\W\x00-\x7f]|(?<=[^\W\x00-\x7f])[A-Za-z]", text))
    return score - 4 * glued - (2.5 if _LONE_IDEOGRAPH.search(text) else 0)


# -- languages ----------------------------------------------------------------------------------------------------


def _east_asian(common: str, share: float, codec: str, rows: range, n_usual: int) -> Callable[[str], float]:
    """Likelihoods: ``share`` for the common characters, most of the rest for those in ``rows`` of the codec."""
    listed = frozenset(common)
    of_common, of_usual = math.log(share / len(listed)), math.log((0.97 - share) / n_usual)

    def character(sign: str) -> float:
        if sign in listed:
            return of_common
        if sign in _CJK_PUNCTUATION:
            return -5.0
        return of_usual if sign.encode(codec, "replace")[0] in rows else _RARE

    return character


def _has_common(text: str, character: Callable[[str], float]) -> bool:
    """Whether a third of the characters that are not ASCII is common. In a wrong encoding they are rare."""
    rates = [character(sign) for sign in text[:_ENOUGH] if not sign.isascii()]
    return len(rates) <= 3 * sum(rate > _COMMON for rate in rates)


def _mostly_usual(character: Callable[[str], float], least: int = 2) -> Callable[[str], bool]:
    """``least``: number of characters that are not ASCII; one says too little."""

    def is_plausible(text: str) -> bool:
        rates = [character(sign) for sign in text if not sign.isascii()]
        n_rare = sum(rate <= _RARE for rate in rates)
        return 10 * n_rare <= len(rates) and len(rates) >= least and not _GLUED_IDEOGRAPH.search(text)

    return is_plausible


_kanji = _east_asian(_KANJI, 0.6, "cp932", range(0x88, 0x98), 3000)
_simplified = _east_asian(_HANZI, 0.72, "gb2312", range(0xB0, 0xD8), 3755)
_traditional = _east_asian(_HANZI_TRADITIONAL, 0.72, "big5", range(0xA4, 0xC7), 5401)
_korean = _east_asian(_HANGUL, 0.85, "euc_kr", range(0xB0, 0xC9), 2350)


def _japanese(sign: str) -> float:
    return -4.8 if "\u3041" <= sign <= "\u30fe" else _kanji(sign)  # kana


def _cyrillic(sign: str) -> float:
    if sign in "оеаинтслрвкмдпу":
        return -3.2
    if sign in "ыяьгзбчйхжюшцщэфъёіїє":
        return -4.4
    return -5.2 if sign.isalpha() else -5.0


def _is_cyrillic(text: str) -> bool:
    letters = [sign for sign in text if not sign.isascii() and sign not in _TYPOGRAPHIC + "№"]
    words = _CYRILLIC_WORD.findall(text)
    pairs = [word[i : i + 2] for word in map(str.lower, words) for i in range(len(word) - 1)]
    n_known = sum(pair in _KNOWN_PAIRS for pair in pairs)
    return (
        len(letters) == sum(map(len, words))
        and max(map(len, words), default=0) > 2  # a single letter says nothing
        and not _CAPITAL_INSIDE.search(text)
        and n_known >= 0.6 * len(pairs)
    )


def _western(sign: str) -> float:
    if sign in _LATIN:
        return -5.5
    return -7.5 if sign in _LATIN_LETTERS else -5.5


def _is_western(text: str) -> bool:
    """Accented letters in words of other letters; symbols not inside of words."""
    if sum(sign.isascii() and sign.isalnum() for sign in text) <= 1:  # "“ú" or "ŠG" may be one character of others
        return False
    for before, sign, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if sign.isascii():
            continue
        if sign in _LATIN_LETTERS:
            accented = [other in _LATIN_LETTERS for other in (before, after)]
            if all(accented) or (sign.isupper() and before.islower()):
                return False
        elif sign in _IN_WORDS:
            if sign != "’" and before.islower() and after.islower():
                return False
        elif sign not in _TYPOGRAPHIC or (before.isalpha() and (after.isalpha() or sign in "€¡¿×½¼¾¥")):
            return False
        if sign in "½¼¾²³¥§" and after.isalpha():
            return False
    return not _MISREAD.search(text) and not _ONLY_ACCENTED.search(text)


def _any_script(sign: str) -> float:
    return (
        max(rate(sign) for rate in (_simplified, _traditional, _japanese, _korean, _cyrillic_or_rare, _western_or_rare))
        - 0.7
    )


def _cyrillic_or_rare(sign: str) -> float:
    return _cyrillic(sign) if _CYRILLIC_WORD.match(sign) else _RARE


def _western_or_rare(sign: str) -> float:
    return _western(sign) if sign in _LATIN_LETTERS or sign in _TYPOGRAPHIC else _RARE


def _is_text(text: str) -> bool:
    """Any script, but no characters that are not assigned; mostly usual ones."""
    return all(unicodedata.category(sign) != "Cn" for sign in text) and _mostly_usual(_any_script, least=0)(text)


_EIGHT_BIT = (
    _Candidate("gbk", "GBK", 0.25, _simplified, _mostly_usual(_simplified)),
    _Candidate("big5", "Big5", 0.06, _traditional, _mostly_usual(_traditional)),
    _Candidate("cp932", "Shift JIS", 0.1, _japanese, _mostly_usual(_japanese)),
    _Candidate("euc_jp", "EUC-JP", 0.01, _japanese, _mostly_usual(_japanese)),
    _Candidate("cp949", "EUC-KR", 0.08, _korean, _mostly_usual(_korean)),
    _Candidate("cp1251", "Windows-1251", 0.12, _cyrillic, _is_cyrillic, is_wide=False),
    _Candidate("cp1252", "Windows-1252", 0.38, _western, _is_western, is_wide=False),
)
_UTF_16 = (
    _Candidate("utf-16-le", "UTF-16", 0.05, _any_script, _is_text),
    _Candidate("utf-16-be", "UTF-16 (big endian)", 0.02, _any_script, _is_text),
)
