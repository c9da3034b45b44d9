"""What any page must be: well-formed, unique ids and headings in order, and nothing inline. Knows HTML alone."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})
UNSPOKEN = frozenset({"style", "script", "title", "desc", "head", "svg", "noscript"})
BLOCKS = frozenset({"p", "li", "dd", "dt", "td", "th", "tr", "h1", "h2", "h3", "h4", "h5", "div", "summary", "caption"})


@dataclass
class Found(HTMLParser):
    """One page, read through; changed only while it is fed."""

    faults: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    everything: list[str] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"an attribute twice in <{tag}>")
        for name, value in attrs:
            self._attribute(tag, name, value or "")
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.words.append("\n")
        if not self.stack or self.stack.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing, line {self.getpos()[0]}")

    def handle_data(self, data: str) -> None:
        self.everything.append(data)
        if not UNSPOKEN.intersection(self.stack):
            self.words.append(data)

    def _attribute(self, tag: str, name: str, value: str) -> None:
        self.attributes.append((tag, name, value))
        if name == "id":
            self.ids.append(value)
        if name in ("aria-labelledby", "aria-describedby"):
            self.references += value.split()
        if name == "href" and value.startswith("#"):
            self.references.append(value[1:])

    @property
    def text(self) -> str:
        """What a person reads, without what only pictures say."""
        lines = (" ".join(line.replace("\u00a0", " ").split()) for line in "".join(self.words).splitlines())
        return "\n".join(line for line in lines if line)


def read(page: str) -> Found:
    """The page, read to its end."""
    found = Found()
    found.feed(page)
    found.close()
    return found


def faults(page: str, *, self_contained: bool = False) -> list[str]:
    """All that is wrong with a page; `self_contained`: it is the report file, with a style and no script at all."""
    found = read(page)
    wrong = list(found.faults)
    wrong += [f"<{tag}> is not closed" for tag in found.stack]
    wrong += [f"id {one!r} twice" for one in {one for one in found.ids if found.ids.count(one) > 1}]
    wrong += [f"id {one!r} is empty or has a space" for one in found.ids if not one or " " in one]
    wrong += [f"#{one} is nowhere" for one in found.references if one not in found.ids]
    if found.headings[:1] != [1] or found.headings.count(1) != 1:
        wrong.append(
            f"headings begin with {found.headings[:1]}, and there are {found.headings.count(1)} of the first level"
        )
    wrong += [
        f"a heading of level {after} after one of {before}"
        for before, after in zip(found.headings, found.headings[1:], strict=False)
        if after > before + 1
    ]
    named = [v for tag, n, v in found.attributes if n == "aria-labelledby" and tag in ("section", "nav")]
    wrong += [f"two landmarks named by {one}" for one in named if named.count(one) > 1]
    if found.tags.count("article") > 1 and any(
        tag == "section" for tag, n, _ in found.attributes if n == "aria-labelledby"
    ):
        wrong.append("landmarks of one name in several articles")
    wrong += [f"{name}= in <{tag}>" for tag, name, _ in found.attributes if name == "style" or name.startswith("on")]
    for tag in ("main", "header", "footer", "title"):
        if tag not in found.tags:
            wrong.append(f"no <{tag}>")
    # A link that a reader may follow asks for nothing by itself.
    followed = [
        v for tag, n, v in found.attributes if (tag, n) == ("a", "href") and v.startswith(("http://", "https://"))
    ]
    outside = [
        v
        for tag, n, v in found.attributes
        if n in ("src", "href") and v.startswith(("http", "//", "javascript")) and (tag != "a" or v not in followed)
    ]
    if len(followed) != sum((tag, n, v) == ("a", "rel", "noreferrer") for tag, n, v in found.attributes):
        wrong.append("a link to elsewhere that says where it comes from")
    wrong += [f"asks for {one}" for one in outside]
    if self_contained:
        wrong += [
            f"<{tag}> in a file of its own" for tag in ("script", "noscript", "iframe", "object") if tag in found.tags
        ]
        wrong += [
            f"needs {v}" for _, n, v in found.attributes if n in ("src", "href") and not v.startswith(("#", "data:"))
        ]
    elif found.tags.count("script") > 1 or "style" in found.tags:
        wrong.append("a script or style of its own")
    return wrong
