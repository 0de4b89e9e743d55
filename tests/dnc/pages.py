"""Pages of reports, as tests read them."""

from __future__ import annotations

import json
from html.parser import HTMLParser

TAG, BREAKOUT = "<b onclick=alert(1)>&amp;", '"><img src=x onerror=alert(2)>'
"""Names that would be HTML if a page did not show them as text."""


class Page(HTMLParser):
    """What is on a page: tags with their attributes, and the text outside of style and script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        self.text += " " if tag == "td" else ""

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside not in ("style", "script"):
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(page):
    return Page(page.read_text(encoding="utf-8")), json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
