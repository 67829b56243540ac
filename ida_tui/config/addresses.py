"""Addresses of judges that name none: the one that OPENAI_BASE_URL names, with the variable as its origin."""

from __future__ import annotations

from ida_tui.config.trust.endpoint import EnvironmentEndpoint, environment_endpoint
from ida_tui.config.yaml_tree import Node, Origin


def with_environment_address(root: Node) -> Node:
    """The experiment with the environment's address as the base_url of judges on a server that have none.

    It becomes a value of the experiment, so that a run keeps it when it is resumed.
    """
    assert isinstance(root.value, dict)
    judge = root.value.get("judge")
    if judge is None or not isinstance(judge.value, dict):
        return root
    named = environment_endpoint()
    if named is None:
        return root
    judge = _with_address(judge, named)
    panel = judge.value.get("panel") if isinstance(judge.value, dict) else None
    if panel is not None and isinstance(panel.value, list) and isinstance(judge.value, dict):
        members = Node([_with_address(member, named) for member in panel.value], panel.origin)
        judge = Node({**judge.value, "panel": members}, judge.origin)
    return Node({**root.value, "judge": judge}, root.origin)


def _with_address(judge: Node, named: EnvironmentEndpoint) -> Node:
    if not isinstance(judge.value, dict):
        return judge
    kind, base_url = judge.value.get("kind"), judge.value.get("base_url")
    if kind is None or kind.value != "openai" or (base_url and base_url.value is not None):
        return judge
    # A file in the working directory is not the person's own word, as another profile there is not.
    origin = Origin(named.file) if named.file else Origin(label=named.variable)
    return Node({**judge.value, "base_url": Node(named.base_url, origin)}, judge.origin)
