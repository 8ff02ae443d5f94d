"""A page that follows its records: what it answers, to whom, and when it is made anew."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import expect, sync_playwright
from synthetic_records import MARKUP

from results.html.page import __file__ as page_file
from results.html.serve import Server, state_of, with_news


class Study:
    """A directory of runs, and a page that lists the finished ones."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.made = directory, 0
        (directory / "runs").mkdir()

    def finish(self, name: str, file: str = "result.json") -> None:
        (self.directory / "runs" / name).mkdir(exist_ok=True)
        (self.directory / "runs" / name / file).write_text(json.dumps({"id": name}))

    def make(self) -> Path:
        self.made += 1
        done = sorted(path.parent.name for path in self.directory.glob("runs/*/result.json"))
        if not done:
            raise ValueError(f"nothing to report in {MARKUP}")
        head = (Path(page_file).parent / "page.html").read_text().split("<title>")[0]
        path = self.directory / "index.html"
        path.write_text(f"{head}<title>t</title></head><body><p>{' '.join(done)}</p></body>\n</html>\n")
        return path


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def server(study: Study) -> Iterator[Server]:
    with Server([study.directory], study.make) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: Server, path: str = "", **headers: str) -> str:
    with urlopen(Request(server.url + path, headers=headers), timeout=20) as answer:
        return answer.read().decode()


def test_the_page_is_made_once_for_each_state(study: Study, server: Server) -> None:
    waiting = get(server)
    assert "nothing to report in &lt;script&gt;" in waiting and MARKUP not in waiting
    states = [get(server, "state")]
    for name, file in (("first", "result.json"), ("second", "failure.json"), ("second", "result.json")):
        study.finish(name, file)
        states.append(get(server, "state"))
        assert states[-1] in get(server) and ("second" in get(server)) == (name == "second" and file == "result.json")
    assert len(set(states)) == study.made == 4 and states[-1] == state_of([study.directory])
    (study.directory / "runs" / "first" / "log.jsonl").write_text("{}")  # an epoch is no news
    assert get(server, "state") == states[-1]


def test_only_this_machine_and_only_the_page(study: Study, server: Server) -> None:
    study.finish("first")
    assert server.server_address[0] == "127.0.0.1"
    for path, headers, code in (
        ("runs/first/result.json", {}, 404),
        ("../index.html", {}, 404),
        ("", {"Host": "example.org"}, 403),
        ("state", {"Host": "127.0.0.1.example.org"}, 403),
    ):
        with pytest.raises(HTTPError) as error:
            get(server, path, **headers)
        assert error.value.code == code
        error.value.close()
    assert "first" in get(server, "", Host="localhost:1")


def test_only_the_page_that_is_served_may_ask() -> None:
    plain = (Path(page_file).parent / "page.html").read_text()
    served = with_news(plain, "0123")
    assert "connect-src" not in plain and "fetch(" not in plain
    assert served.count("connect-src 'self'") == 1 and served.index("connect-src") < served.index("<title>")
    assert '!== "0123"' in served


def test_a_browser_follows(study: Study, server: Server) -> None:
    study.finish("first")
    path = shutil.which("chromium")
    assert path, "these tests need Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(server.url)
        expect(page.locator("p")).to_have_text("first")
        study.finish("second")
        expect(page.locator("p")).to_have_text("first second", timeout=60_000)
        browser.close()
    assert not said
