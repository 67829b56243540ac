"""SVG post-processing of terminal screenshots: removal of web fonts, and animation of several frames."""

from __future__ import annotations

import re
from collections.abc import Sequence

FONTS = "Fira Code, DejaVu Sans Mono, Menlo, Consolas, monospace"


def remove_web_fonts(svg: str) -> str:
    """The SVG without web fonts and their URLs, so that the viewer's monospaced font is used."""
    svg = re.sub(r"@font-face\s*\{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    return svg.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}").replace(
        "font-family: Fira Code;", f"font-family: {FONTS};"
    )


def animate(frames: Sequence[tuple[str, float]]) -> str:
    """One SVG that shows the frames in an endless loop.

    Args:
        frames: SVGs of the same size, each with its duration in seconds.
    """
    total = sum(seconds for _, seconds in frames)
    head = re.match(r"\s*<svg[^>]*>", frames[0][0])
    if head is None:
        raise ValueError("the first frame is not an SVG")
    styles, groups, start = [], [], 0.0
    for number, (svg, seconds) in enumerate(frames):
        begin, end = 100 * start / total, 100 * (start + seconds) / total
        start += seconds
        # Hidden, visible from its start to the start of the next frame, hidden again.
        styles.append(
            f"@keyframes f{number}{{0%,{begin:.3f}%{{visibility:hidden}}"
            f"{begin + 0.001:.3f}%,{end:.3f}%{{visibility:visible}}"
            f"{min(end + 0.001, 100):.3f}%,100%{{visibility:hidden}}}}"
            f".f{number}{{visibility:hidden;animation:f{number} {total:.2f}s step-end infinite}}"
        )
        if number == 0:
            styles[-1] = styles[-1].replace(f"0%,{begin:.3f}%{{visibility:hidden}}", "", 1)
        inner = re.sub(r"^\s*<svg[^>]*>|</svg>\s*$", "", svg)
        groups.append(f'<g class="f{number}">{inner}</g>')
    return f"{head[0]}<style>{''.join(styles)}</style>{''.join(groups)}</svg>\n"
