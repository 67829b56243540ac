"""Recognition of texts that are not English, by their script and by common words. No dictionary, no model."""

from __future__ import annotations

import re

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
