"""Elements of SVG as text with XML's escaping."""

from markupsafe import Markup, escape

from abfleet_dashboard.foreign import readable


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An element. Children are escaped unless they are Markup; `text_anchor` is text-anchor; None is left out.

    What is no Markup may be foreign, and endless text is cut: an attribute that we drew and that may be long is Markup.

    Colours are never given here: the page's policy forbids styles in elements, and the style sheet knows the dark.
    """
    parts = [
        Markup(' {}="{}"').format(Markup(_name(name)), _text(value))  # noqa: S704 - names are ours
        for name, value in attributes.items()
        if value is not None
    ]
    inside = Markup("").join(child if isinstance(child, Markup) else escape(readable(child)) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), Markup("").join(parts), inside)  # noqa: S704 - as above


def joined(parts: list[Markup]) -> Markup:
    """The parts as one piece of markup."""
    return Markup("").join(parts)


def percent(fraction: float) -> str:
    """A fraction of an axis as SVG has it: 0.25 is `25%`."""
    return f"{_short(fraction * 100)}%"


def path(points: list[tuple[float, float]], *, close: bool = False) -> Markup:
    """A line through points given as fractions, in the thousandths that every plot's inner drawing has; never cut."""
    corners = [f"{_short(x * 1000)} {_short(y * 1000)}" for x, y in points]
    text = "M" + "L".join(corners) + ("Z" if close else "") if corners else ""
    return Markup(text)  # noqa: S704 - numbers and letters of our own


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    if isinstance(value, float):
        return _short(value)
    if isinstance(value, Markup):
        return str(value)  # whole, and escaped all the same
    return readable(str(value))


def _short(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
