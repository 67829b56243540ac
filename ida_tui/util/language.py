"""Recognition of a text's language, by its script and by common words. No dictionary, no model."""

from __future__ import annotations

import re
from collections import Counter

from ida_tui.util.text import SPACELESS_LETTER

NON_LATIN_SHARE = 0.5
"""Share of words in another script from which a text is not English."""
MARKED_SHARE = 0.2
"""Share of words with letters such as ł or ñ from which a text with few English words is not English."""
ENGLISH_SHARE = 0.1
"""Share of common English words below which a text has few of them."""
_MIN_MARKED_WORDS = 3
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_WORD = re.compile(rf"{SPACELESS_LETTER}|(?:(?!{SPACELESS_LETTER})[^\W\d_])+")
_NOT_LATIN = re.compile("[\u0370-\u1dff\u1f00-\u1fff\u2c00-\ua71f\ua800-\uab2f\uab70-\ufaff\uff66-\uffdc]"
                        "|[\U00010000-\U0003ffff]")  # fmt: skip
_ENGLISH_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
    the and of to you that with are this have your not can but if what they my is it for in be as at or
    from how when which there their would could should about do does don i we he she an a
        """,
    )
)
# No word of this list is a common English word.
_OTHER_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
    der das und nicht ich ist ein eine einen einem einer mit für auf dem von zu zum zur sie wir aber
    kann kannst können leider mir dir tut auch oder wenn wie dass sich sind wird dabei ihnen es
    le la les des une est je ne pas vous nous que qui dans avec sur mais ce cette désolé puis peux être
    il elle et un mon ma votre aux oui bonjour
    el los las por para lo siento puedo pero su se y del como más eso esto una ayudar sí hola
    não uma você em mas eu posso isso desculpe da pelo ajudar
    che non è di mi dispiace questo gli della sono ciao
    het een niet ik dat voor maar zijn deze geen wat
    och att det jag inte är som på för jeg ikke og til av kan du hei
    nie się na jest że przepraszam mogę tym
    bir ve bu için değil yardım maalesef
    yang tidak saya bisa dengan untuk ini maaf
    ei että ja olen voi
        """,
    )
)
# Common words of languages in Latin script, and letters that hardly any other of them has. Most of the
# languages are here so that their texts are not taken for one of their relatives.
_LATIN = {
    language: frozenset(words.split())
    for language, words in {
        "de": "der die das und nicht ich ist ein eine einen einem mit für auf dem den von zu zur zum sie"
        " wir aber kann können leider mir dir auch oder wenn wie dass sich sind wird dabei es im als"
        " man nur noch bei du er ihr wer so am nein ja gern dann hier keine kein über werde nach etwa"
        " ß ihre ihren ihm mich dich uns diese dieser dieses haben hat ä ö ü",
        "fr": "le la les des une est je ne pas vous nous que qui dans avec sur mais ce cette il elle et un"
        " au aux du de pour par on si plus sont être désolé non oui c'est j'ai l'on où ça voici puis"
        " tu te cela peux votre son sa ses œ d'un d'une qu'il mes ma mon ta tes nos leur leurs aucun"
        " aucune très bien é è ê à â ç î ô û",
        "es": "el la los las un una de del que y en no es por para lo con su se como más pero si o al eso"
        " esto ese puedo siento hay muy sí gracias usted te me tu aquí cuando también voy está ñ ¿ ¡"
        " ser á é í ó ú son todas todos cada",
        "pt": "o a os as um uma de do da dos das que e em não é por para com se como mais mas ou ao isso"
        " esse posso você seu sua há muito sim obrigado no na nos nas meu vou está eu são ã õ ser foi"
        " tem à ç á ê ó â í todas todos isto",
        "it": "il lo la gli le un una di del della dei che e in non è per con si come più ma se o al questo"
        " posso mi ti ci sono ho molto sì grazie nel alla da anche devo perché dal i tua tuo sua suo"
        " mie miei dello degli essere ha à ì ò ù é",
        "tr": "bir ve bu için değil ne da de mi ama çok en ile gibi daha kadar olarak ben sen var yok evet"
        " hayır hakkında bunu üzgünüm maalesef şu önce sonra ya o ise ı ğ ş sana size sizin ç ö ü ki"
        " her",
        "nl": "de het een niet ik dat voor maar zijn deze geen wat en van is op te met aan kan je u er wel"
        " ook ij spijt naar wordt dit bij uw ons niets zo",
        "sv": "och att det jag inte är som på för en ett av med kan du den till har om ej å ä vi ö ser",
        "da": "og at det jeg ikke er som på for en et af med kan du den til har om å ø hej",
        "pl": "nie się na jest że w z i do to przepraszam mogę tym ale jak czy po ł ą ę ż ś ć ń",
        "cs": "ne se na je že v a do to mohu ale jak pro s ř ě ů č š ž ň",
        "hu": "nem a az és hogy egy van ez de is meg én ő ű sajnálom tudok",
        "ro": "nu și în de la cu pe este un o să care pentru mai ă ș ț îmi pot",
        "fi": "ei että ja olen voi en on se hän mutta kun niin mitä ole tämä",
        "id": "yang tidak saya bisa dengan untuk ini itu dan di ke dari maaf dapat anda akan pada",
        "vi": "không tôi bạn của là và có thể cho với những được này ơ ư đ ạ ả ấ ề ệ ị ọ ộ ợ ụ ủ",
    }.items()
}  # fmt: skip
_FOREIGN_LETTERS = {
    "ru": "[іїєґўјљњћђќѓџәғқңөұүһ]"
    r"|(?<!\S)(?:вибачте|можу|це|що|як|та|дуже|съжалявам|мога|няма|това|ще)(?=[\s.,!?]|\Z)",
    "ar": "[پچژگکیےٹڈڑہںۆێە]",
    "hi": r"(?<!\S)(?:आहे|आहेत|नाही|मला|तुम्ही|आणि|छ|छन्|छैन|तपाईं|गर्न|गर्नुहोस्)(?=\s|[।.,]|\Z)",
}
"""Letters and words that the other languages of a script have."""
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff\uff66-\uff9f]")),
    ("ko", re.compile("[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
)
_KANA_SHARE = 0.1
"""Share of letters in kana from which a text with Chinese characters is Japanese."""


def may_be_english(text: str) -> bool:
    """Whether nothing shows that a text is in another language than English.

    A number, a name or a piece of code counts as English: it is the same in every language.
    """
    words = [word.lower() for word in _WORD.findall(_CODE.sub(" ", text))]
    if not words:
        return True
    total = len(words)
    if sum(_NOT_LATIN.match(word) is not None for word in words) >= NON_LATIN_SHARE * total:
        return False
    english = sum(word in _ENGLISH_WORDS for word in words)
    other = sum(word in _OTHER_WORDS for word in words)
    if other > english and (other > 1 or other == total):
        return False
    marked = sum(not word.isascii() for word in words)
    few_english = english < ENGLISH_SHARE * total
    return not (few_english and total >= _MIN_MARKED_WORDS and marked >= MARKED_SHARE * total)


def language_of(text: str) -> str | None:
    """The language of a text as an ISO 639-1 code; None if it is unknown or undecided."""
    if may_be_english(text):
        return "en"
    plain = _CODE.sub(" ", text).lower()
    letters = sum(character.isalpha() for character in plain)
    counts = {language: len(pattern.findall(plain)) for language, pattern in _SCRIPTS}
    language, count = max(counts.items(), key=lambda item: item[1])
    if counts["ja"] >= _KANA_SHARE * (counts["ja"] + counts["zh"]) > 0:
        language, count = "ja", counts["ja"] + counts["zh"]
    if 2 * count >= letters:
        foreign = _FOREIGN_LETTERS.get(language)
        return None if foreign and re.search(foreign, plain) else language
    return _latin_language(plain)


def _latin_language(text: str) -> str | None:
    """The language in Latin script with the most common words and letters of its own."""
    words = Counter(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.replace("’", "'")))
    characters = Counter(text)
    scores = {
        language: sum(words[mark] + (len(mark) == 1 and characters[mark] * (not mark.isascii()))
                      for mark in marks)
        for language, marks in _LATIN.items()
    }  # fmt: skip
    best = max(
        scores, key=lambda language: scores[language]
    )  # of equals, the one that is named first
    return best if scores[best] else None
