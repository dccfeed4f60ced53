"""The dashboard's files: to whom, with which headers, and none but these."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from daemon.web.page import FOLDER, POLICY, TYPES, wants_html
from tests.fakes.control import RigCase

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
OURS = sorted(path for path in FOLDER.iterdir() if not path.name.startswith("uPlot."))


@pytest.mark.parametrize(("accept", "html"), [
    (BROWSER, True), ("TEXT/HTML", True), ("text/html;q=0.1", True), ("application/json, text/html", True),
    ("*/*", False), ("", False), ("application/json", False), ("text/html;q=0, */*", False), ("text/html; q=0.00", False),
    ("text/html-like", False), ("text/*", False),
])
def test_html_is_for_who_names_it(accept: str, html: bool) -> None:
    assert wants_html(accept) is html


def test_uplot_is_the_one_that_was_taken_and_its_licence_is_beside_it() -> None:
    listed = dict(reversed(line.split("  ")) for line in (FOLDER / "uPlot.sha256").read_text().splitlines())
    assert set(listed) == {path.name for path in FOLDER.glob("uPlot.*")} - {"uPlot.sha256"}
    for name, digest in listed.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert "The MIT License" in (FOLDER / "uPlot.LICENSE").read_text()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_comes_from_outside_and_no_text_becomes_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    outside = set(re.findall(r"https?://[^\s'\"<>]+|//[a-z]+\.[a-z]+", text))
    assert outside <= {"http://www.w3.org/2000/svg"}  # a name space, in the icon
    for way in (r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc",
                r"\beval\b|new Function|javascript:", r"\bon[a-z]+=", r"<style|\sstyle="):
        assert re.search(way, text) is None, way


def test_every_file_the_page_names_is_there() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in OURS}
    named = set(re.findall(r'"/static/([^"]+)"', texts["index.html"]))
    named |= {name for text in texts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert named | {"index.html", "uPlot.LICENSE", "uPlot.sha256"} == {path.name for path in FOLDER.iterdir()}
    ids = set(re.findall(r'\bid="([^"]+)"', texts["index.html"]))
    used = {name for text in texts.values() for name in re.findall(r'byId\("([^"]+)"\)', text)}
    assert used <= ids


class ServedTest(RigCase):
    def test_a_browser_gets_the_page_and_a_program_the_index(self) -> None:
        page = self.client.get("/", headers={"Accept": BROWSER})
        self.assertEqual((page.status, page.type), (200, "text/html; charset=utf-8"))
        self.assertEqual(page.body, (FOLDER / "index.html").read_bytes())
        index = self.client.get("/", headers={"Accept": "*/*"})
        self.assertEqual((index.status, index.type), (200, "application/json"))
        self.assertEqual(index.json["agents"], "/v1/agents")
        self.assertEqual({page.headers["vary"], index.headers["vary"]}, {"accept"})

    def test_every_file_has_its_type_and_the_strict_headers(self) -> None:
        for path in sorted(FOLDER.iterdir()):
            with self.subTest(path.name):
                answer = self.client.get(f"/static/{path.name}")
                self.assertEqual((answer.status, answer.body), (200, path.read_bytes()))
                self.assertEqual(answer.type.encode(), TYPES[path.suffix])
                self.assertEqual(answer.headers["content-security-policy"].encode(), POLICY)
                self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
                self.assertEqual(answer.headers["cache-control"], "no-cache")

    def test_the_policy_lets_nothing_in_from_outside(self) -> None:
        said = dict(part.strip().split(" ", 1) for part in POLICY.decode().split(";"))
        self.assertEqual(said, {
            "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' data:",
            "connect-src": "'self'", "frame-ancestors": "'none'", "base-uri": "'none'", "form-action": "'none'",
        })

    def test_a_copy_that_is_still_good_is_not_sent_again(self) -> None:
        tag = self.client.get("/static/main.js").headers["etag"]
        for sent in (tag, f"W/{tag}", f'"other", {tag}', f'"other",{tag}', "*"):
            with self.subTest(sent):
                again = self.client.get("/static/main.js", headers={"If-None-Match": sent})
                self.assertEqual((again.status, again.body), (304, b""))
        changed = self.client.get("/static/main.js", headers={"If-None-Match": '"other"'})
        self.assertEqual((changed.status, changed.body), (200, (FOLDER / "main.js").read_bytes()))

    def test_a_head_has_no_body(self) -> None:
        answer = self.client.ask("HEAD", "/static/main.js")
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_no_other_file_is_served(self) -> None:
        for name in ("nothing.js", "..%2Fapi.py", "%2e%2e%2fapi.py", "..", ".", "main", "main.js%00", "a.py", ".htaccess",
                     "%2Fetc%2Fpasswd", "main.js/", "x" * 300 + ".js", "ma%0ain.js", "main.js%0a", "main%5c.js"):
            with self.subTest(name):
                self.check_problem(self.client.get(f"/static/{name}"), 404, None)

    def test_files_are_read_not_written(self) -> None:
        self.check_problem(self.client.post("/static/main.js"), 405, None)
        self.check_problem(self.client.post("/"), 405, None)
