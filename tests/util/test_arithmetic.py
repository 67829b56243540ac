"""Safe arithmetic: what an expression may contain, its values, and hostile or random text."""

from __future__ import annotations

import math
from random import Random

import pytest

from ida_tui.util.arithmetic import (
    MAX_EXPRESSION_CHARS,
    ExpressionError,
    compile_expression,
)

NAMES = ("a", "b", "c_1")
VALUES = (
    {"a": 7.5, "b": 10.0, "c_1": 2.0},
    {"a": 0.0, "b": 0.0, "c_1": 0.0},
    dict.fromkeys(NAMES, -1e300),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 7.5),
        ("-a + +b", 2.5),
        ("(a + b) * c_1 / 5 - 1", 6.0),
        ("b ** c_1 ** 0.5 ** 0", 100.0),
        ("min(1, b/5) * max(a, b, c_1)", 10.0),
        ("abs(c_1 - b) + sqrt(c_1 * 2)", 10.0),
        ("a if b >= 10 else c_1", 7.5),
        ("a if b < 10 else c_1 if b > 10 else 1e1", 10.0),
        ("10 * (a > 7) + (a <= 7)", 10.0),
        ("min(a)", 7.5),
        ("min(1, 1e999)", 1.0),
    ],
)  # fmt: skip
def test_an_expression_has_the_value_of_its_arithmetic(text: str, expected: float) -> None:
    assert compile_expression(text, NAMES).evaluate(VALUES[0]) == pytest.approx(expected)


def test_an_expression_knows_the_names_that_it_reads_in_their_order() -> None:
    assert compile_expression("c_1 * a + a", NAMES).names == ("a", "c_1")
    assert compile_expression("3", NAMES).names == ()


def test_the_branch_that_is_not_taken_is_not_computed() -> None:
    expression = compile_expression("1/a if a > 0 else 0", NAMES)
    assert expression.evaluate({"a": 0.0}) == 0


@pytest.mark.parametrize(
    "text",
    ["1/a", "sqrt(-1)", "a ** -1", "(-1) ** 0.5", "1e308 * 10", "9.0**9**9**9", "1e999 - 1e999", "1e999"],
)  # fmt: skip
def test_an_expression_without_a_finite_value_raises_an_arithmetic_error(text: str) -> None:
    expression = compile_expression(text, NAMES)
    with pytest.raises(ArithmeticError):
        expression.evaluate({"a": 0.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid syntax"),
        ("a +", "invalid syntax"),
        ("a; b", "invalid syntax"),
        ("x", 'unknown name "x"'),
        ("__import__('os')", "is not allowed"),
        ("a.__class__", "is not allowed"),
        ("().__class__.__bases__", "is not allowed"),
        ("[a for a in (1,)]", "is not allowed"),
        ("(lambda: a)()", "is not allowed"),
        ("(a := 3)", "is not allowed"),
        ("f'{a}'", "is not allowed"),
        ("a[0]", "is not allowed"),
        ("'a' * 9", "is not allowed"),
        ("1j", "is not allowed"),
        ("True", "is not allowed"),
        ("a // b", "is not allowed"),
        ("a % b", "is not allowed"),
        ("a << 9", "is not allowed"),
        ("not a", "is not allowed"),
        ("a and b", "is not allowed"),
        ("a == b", "is not allowed"),
        ("0 < a < 1", "is not allowed"),
        ("min(*a)", "is not allowed"),
        ("min(a, key=abs)", "is not allowed"),
        ("pow(a, 2)", "is not allowed"),
        ("min", 'unknown name "min"'),
        ("min()", "min takes one or more arguments"),
        ("abs(a, b)", "abs takes 1 argument"),
        ("sqrt()", "sqrt takes 1 argument"),
        ("0x" + "f" * 290, "a number is too large"),
        ("a" + "+a" * 150, f"longer than {MAX_EXPRESSION_CHARS} characters"),
        ("a\x00", "invalid syntax"),
        ("\ud800", "invalid syntax"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        compile_expression(text, NAMES)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "text", ["-" * 299 + "a", "(" * 149 + "a" + ")" * 149, "abs(" * 59 + "a" + ")" * 59]
)
def test_a_deeply_nested_expression_has_a_value_or_is_refused(text: str) -> None:
    assert evaluate_all(text) in ("value", "refused")


def test_random_text_is_refused_or_has_a_finite_value_or_none() -> None:
    draw = Random(0)
    outcomes = [evaluate_all(random_expression(draw)) for _ in range(2000)]
    outcomes += [evaluate_all(random_tokens(draw)) for _ in range(2000)]
    for outcome in ("value", "no value", "refused"):
        assert outcomes.count(outcome) > 100


def evaluate_all(text: str) -> str:
    """Compile a text and evaluate it for all values; anything but the two documented errors is raised."""
    try:
        expression = compile_expression(text, NAMES)
    except ExpressionError:
        return "refused"
    outcome = "value"
    for values in VALUES:
        try:
            value = expression.evaluate(values)
        except ArithmeticError:
            outcome = "no value"
        else:
            assert isinstance(value, float)
            assert math.isfinite(value)
    return outcome


def random_expression(draw: Random, depth: int = 5) -> str:
    """An expression of the grammar."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice((*NAMES, "0", "10", "1e308", ".5", "3", "1e-320"))
    first, second, third = (random_expression(draw, depth - 1) for _ in range(3))
    return draw.choice(
        (
            f"({first} {draw.choice(('+', '-', '*', '/', '**', '<', '<=', '>', '>='))} {second})",
            f"-{first}",
            f"({first} if {second} else {third})",
            f"{draw.choice(('min', 'max'))}({first}, {second})",
            f"{draw.choice(('abs', 'sqrt'))}({first})",
        )
    )


def random_tokens(draw: Random) -> str:
    """Tokens of expressions and of Python in any order."""
    tokens = (
        *NAMES, *NAMES, "0", "10", "1e9", "+", "-", "*", "/", "**", "(", ")", "(", ")", ",", "<", "==",
        " if ", " else ", " and ", "min(", "abs(", "sqrt(", "x", "'", "[", "]", ".", ":", "lambda", "\n",
        "\\", "#", "é", "9" * 20, "0x" + "f" * 30, "_", "{", "}", "=", "@", "~", "%", "\x00", "await ",
        "\ud800",
    )  # fmt: skip
    return "".join(draw.choice(tokens) for _ in range(draw.randint(1, 12)))
