"""Panel of judges in a profile's tree: a typed panel, and facts that overrides make stale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ida_tui.config import profiles
from ida_tui.config.scoring_checks.judge import PANEL_KEYS
from ida_tui.config.trust.endpoint import is_local
from ida_tui.config.yaml_tree import COMMAND_LINE_ORIGIN, Node, to_plain


def with_panel(root: Node) -> Node:
    """The experiment with the judges of its panel as values; a typed panel replaces the profile's judge."""
    assert isinstance(root.value, dict)
    judge = root.value.get("judge")
    if judge is None or not isinstance(judge.value, dict):
        return root
    panel = judge.value.get("panel")
    if panel is not None and panel.value and panel.origin == COMMAND_LINE_ORIGIN:
        kept = {key: judge.value[key] for key in PANEL_KEYS if key in judge.value}
        kind = {key: Node("panel", COMMAND_LINE_ORIGIN) for key in ("name", "kind")}
        judge = Node({**kept, **kind}, judge.origin)
    return Node({**root.value, "judge": profiles.load_panel(judge, "judge.panel")}, root.origin)


def stale_judge_facts(judge: Node | None, address: str | None) -> list[str]:
    """The keys of a judge's profile that do not hold for another model or address.

    A server on this machine is free, whatever its model.

    Args:
        judge: the judge with its old values.
        address: its new `base_url`; None if it stays.
    """
    values = judge.value if judge and isinstance(judge.value, dict) else {}
    price, base_url = (to_plain(values[k]) if k in values else None for k in ("price", "base_url"))
    is_free = isinstance(price, dict) and not any(price.values())
    keeps_price = is_free and is_local(address or str(base_url))
    return ["description", "shutdown_date", *([] if keeps_price else ["price"])]


def without_stale_member_facts(
    root: Node, overrides: Mapping[str, str], is_same_value: Callable[[Node, str, str], bool]
) -> Node:
    """Drop the price and the other facts of a panel's judge whose model or address an override replaces.

    Args:
        root: the experiment.
        overrides: dotted key → text.
        is_same_value: whether an override repeats the value that the experiment has.
    """
    assert isinstance(root.value, dict)
    judge = root.value.get("judge")
    panel = judge.value.get("panel") if judge and isinstance(judge.value, dict) else None
    for number in range(len(panel.value) if panel and isinstance(panel.value, list) else 0):
        place = f"judge.panel.{number}"
        changed = {
            key: text
            for key, text in overrides.items()
            if key in (f"{place}.model", f"{place}.base_url") and not is_same_value(root, key, text)
        }
        if changed:
            member = panel.value[number] if panel and isinstance(panel.value, list) else None
            for fact in stale_judge_facts(member, changed.get(f"{place}.base_url")):
                root = _without_key(root, [*place.split("."), fact])
    return root


def _without_key(node: Node, path: Sequence[str]) -> Node:
    """A copy of `node` without the key at a path; the same node if there is none."""
    head, *rest = path
    if isinstance(node.value, list):
        items = list(node.value)
        items[int(head)] = _without_key(items[int(head)], rest)
        return Node(items, node.origin)
    if not isinstance(node.value, dict) or head not in node.value:
        return node
    entries = dict(node.value)
    if rest:
        entries[head] = _without_key(entries[head], rest)
    else:
        del entries[head]
    return Node(entries, node.origin)
