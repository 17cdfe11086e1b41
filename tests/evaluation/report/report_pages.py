"""A report as tests read it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "wbr", "br"}


class Page(HTMLParser):
    """Elements with their attributes, tables as rows of text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.tables, self.open, self.captions = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "caption":
            self.captions.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "caption" in self.open:
            self.captions[-1] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, start):
        """The rows of the one table whose caption starts so."""
        (found,) = [t for t, c in zip(self.tables, self.captions, strict=True) if c.startswith(start)]
        return found
