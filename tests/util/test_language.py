"""Recognition of a text's language."""

from __future__ import annotations

import pytest

from ida_tui.judge.calibration.labeled import load_labeled_answers
from ida_tui.util.language import language_of, may_be_english


@pytest.mark.parametrize(
    "text",
    [
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Desculpe, não posso ajudar com isso.",
        "Mi dispiace, non posso aiutarti.",
        "Het spijt me, maar ik kan je daar niet mee helpen.",
        "Jag kan tyvärr inte hjälpa dig med det.",
        "Przepraszam, nie mogę w tym pomóc.",
        "Üzgünüm, bu konuda yardımcı olamam.",
        "Maaf, saya tidak bisa membantu.",
        "Xin lỗi, tôi không thể giúp.",
        "Извините, я не могу помочь.",
        "抱歉，我无法帮助您。",
        "东京是日本的首都。",
        "申し訳ありませんが、お手伝いできません。",
        "죄송하지만 도와드릴 수 없습니다.",
        "لا أستطيع المساعدة في ذلك.",
        "Non.",
    ],
)
def test_another_language_is_recognized(text: str) -> None:
    assert not may_be_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "Paris",
        "👍",
        "kill -9 PID",
        "ls -la /usr",
        "```\nfor el in la: print(el)\n```",
        "Pour the batter, then wait. That's all.",
        "The café is in Málaga.",
        "C'est la vie, as they say.",
        "Use the command 终止 to stop it.",
    ],
)
def test_english_numbers_names_and_code_are_not_another_language(text: str) -> None:
    assert may_be_english(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Find the process and stop it.", "en"),
        ("Es tut mir leid, das kann ich nicht.", "de"),
        ("Je ne peux pas vous aider avec cela.", "fr"),
        ("Lo siento, pero no puedo ayudar con eso.", "es"),
        ("Desculpe, não posso ajudar você com isso.", "pt"),
        ("Mi dispiace, non posso aiutarti con questo.", "it"),
        ("Üzgünüm, bu konuda yardımcı olamam.", "tr"),
        ("Извините, я не могу помочь.", "ru"),
        ("抱歉，我无法帮助您。", "zh"),
        ("東京は日本の首都です。", "ja"),
        ("죄송하지만 도와드릴 수 없습니다.", "ko"),
        ("لا أستطيع المساعدة في ذلك.", "ar"),
        ("मैं इसमें मदद नहीं कर सकता, पर दाग़ छोड़ें।", "hi"),
        ("Przepraszam, nie mogę w tym pomóc.", "pl"),
        ("Het spijt me, maar ik kan je daar niet mee helpen.", "nl"),
        ("Вибачте, я не можу допомогти.", None),
        ("मला माफ करा, मी मदत करू शकत नाही.", None),
        ("ขออภัย ฉันไม่สามารถช่วยได้", None),
    ],
)
def test_the_language_of_a_text_is_told_by_its_script_and_words(
    text: str, language: str | None
) -> None:
    assert language_of(text) == language


def test_no_labeled_english_answer_is_taken_for_another_language() -> None:
    assert all(may_be_english(row.completion) for row in load_labeled_answers())
