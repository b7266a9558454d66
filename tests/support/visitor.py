"""A person with a browser that runs no script: follows redirects one at a time, reads pages, sends forms.

Belongs here: that, over real HTTP. Does not belong here: any expectation, or a browser that runs (``tests/browser``).
"""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

TIMEOUT = 120.0
MOST_REDIRECTS = 15


@dataclass
class Form:
    """One form of a page.

    Attributes:
        fields: name to value, hidden ones included.
        buttons: what each button says, with the name and value that it sends, if any.
    """

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, tuple[str, str] | None] = field(default_factory=dict)


@dataclass
class Page:
    """What a browser shows.

    Attributes:
        via: every address that led here, the page's own last.
    """

    url: str
    status: int
    headers: requests.structures.CaseInsensitiveDict[str]
    html: str
    via: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def heading(self) -> str:
        return self._read().heading

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._read().texts).split())

    @property
    def links(self) -> dict[str, str]:
        return self._read().links

    @property
    def forms(self) -> list[Form]:
        return self._read().forms

    def form(self, button: str) -> Form:
        [found] = [form for form in self.forms if button in form.buttons]
        return found

    def _read(self) -> "_Reader":
        reader = _Reader()
        reader.feed(self.html)
        return reader


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.texts: list[str] = []
        self._inside: list[tuple[str, dict[str, str]]] = []
        self._said: list[str] = []
        self.heading = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("method", "get").lower(), given.get("action", "")))
        if tag == "input" and self.forms and (given.get("type") != "radio" or "checked" in given):
            self.forms[-1].fields[given.get("name", "")] = given.get("value", "")
        if tag in ("a", "button", "h1"):
            self._inside.append((tag, given))
            self._said = []

    def handle_endtag(self, tag: str) -> None:
        if not self._inside or self._inside[-1][0] != tag:
            return
        _, given = self._inside.pop()
        said = " ".join("".join(self._said).split())
        if tag == "a":
            self.links[said] = given.get("href", "")
        elif tag == "h1":
            self.heading = said
        elif self.forms:
            self.forms[-1].buttons[said] = (given["name"], given.get("value", "")) if "name" in given else None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        self._said.append(data)


class Visitor:
    """One browser with its own cookies; a tab is nothing but the page that was got last."""

    def __init__(self) -> None:
        self.http = requests.Session()
        self.http.trust_env = False

    def get(self, url: str, *, until: str | None = None) -> Page:
        """Open an address and follow redirects; stop before an address that begins with ``until``."""
        return self._follow(self.http.get(url, timeout=TIMEOUT, allow_redirects=False), [url], until)

    def submit(self, page: Page, button: str, *, until: str | None = None, **changes: str) -> Page:
        """Press a button of a page, with some fields changed; go on as ``get`` does."""
        form = page.form(button)
        pressed = form.buttons[button]
        content: dict[str, Any] = {**form.fields, **({pressed[0]: pressed[1]} if pressed else {}), **changes}
        url = urljoin(page.url, form.action) if form.action else page.url
        if form.method == "get":
            answer = self.http.get(url, params=content, timeout=TIMEOUT, allow_redirects=False)
        else:
            answer = self.http.post(url, data=content, timeout=TIMEOUT, allow_redirects=False)
        return self._follow(answer, [url], until)

    def _follow(self, answer: requests.Response, via: list[str], until: str | None) -> Page:
        while answer.is_redirect and len(via) < MOST_REDIRECTS:
            url = urljoin(answer.url, answer.headers["Location"])
            via = [*via, url]
            if until is not None and url.startswith(until):
                return Page(url, answer.status_code, answer.headers, "", via)
            answer = self.http.get(url, timeout=TIMEOUT, allow_redirects=False)
        return Page(answer.url, answer.status_code, answer.headers, answer.text, via)
