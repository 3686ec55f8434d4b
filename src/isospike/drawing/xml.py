"""XML in a few lines: everything foreign passes through ``element`` or ``text`` and is escaped there."""

from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr


def text(content: str) -> str:
    """Escape character data."""
    return escape(content)


def element(tag: str, attributes: Mapping[str, object] | None = None, *children: str) -> str:
    """Write an element on a line of its own; ``children`` are elements, or what ``text`` gave."""
    head = "".join(f" {name}={quoteattr(str(value))}" for name, value in (attributes or {}).items())
    if not children:
        return f"<{tag}{head}/>"
    if not any(child.startswith("<") for child in children):
        return f"<{tag}{head}>{''.join(children)}</{tag}>"
    return "\n".join([f"<{tag}{head}>", *children, f"</{tag}>"])
