"""A student goes to a hub only when asked, and then privately; the hub is a stand-in on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_train import ekd, train


class Hub(ThreadingHTTPServer):
    """As much of the hub's interface as huggingface_hub asks for while it makes a repository and fills it."""

    def __init__(self, *, public: bool = False, refuses: bool = False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.public, self.refuses = public, refuses
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        hub = self.server
        if self.path.startswith("/api/models/me/student"):
            private = not hub.public
            self.answer(200, {"id": "me/student", "private": private, "siblings": [], "tags": [], "sha": "0" * 40})
        else:
            self.answer(404, {"error": self.path})

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            self.answer(403, {"error": "You may not."})
        elif self.path == "/api/repos/create":
            hub.made.append(json.loads(body))
            url = f"http://127.0.0.1:{hub.server_port}/me/student"
            self.answer(409 if hub.public else 200, {"url": url, "error": "it is there"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self.answer(200, {"files": [file | {"shouldIgnore": False} for file in files]})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            page = f"http://127.0.0.1:{hub.server_port}/me/student/commit/{'0' * 40}"
            self.answer(200, {"commitUrl": page, "commitOid": "0" * 40, "success": True})
        else:
            self.answer(404, {"error": self.path})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        tmp_path_factory.mktemp("push"), "trainer.max_steps=2", "trainer.val_check_interval=2", "benchmark.problems=0"
    )


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    server = Hub(**getattr(request, "param", {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def export(run: Path, hub: Hub, *words: str):
    where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_DISABLE_XET": "1"}
    return ekd("export", f"run={run}", *words, cwd=run.parent, HF_TOKEN="hf_5ec2e7", HF_HUB_OFFLINE="0", **where)


def test_what_was_written_is_pushed_privately_and_nothing_else(run: Path, hub: Hub, tmp_path: Path) -> None:
    done = export(run, hub, "push=me/student", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stdout + done.stderr
    written = {
        str(f.relative_to(tmp_path / "out")): f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()
    }
    assert hub.files == written and {"README.md", "config.json", "model.safetensors"} <= set(hub.files)
    (made,) = hub.made
    assert (made["name"], made["organization"]) == ("student", "me")
    assert made.get("private") is True or made.get("visibility") == "private", made
    assert hub.tokens == {"Bearer hf_5ec2e7"}
    assert f"pushed      http://127.0.0.1:{hub.server_port}/me/student" in done.stdout
    assert "5ec2e7" not in done.stdout + done.stderr


def test_nothing_is_sent_unasked(run: Path, hub: Hub, tmp_path: Path) -> None:
    assert export(run, hub, f"out={tmp_path / 'out'}").returncode == 0
    assert not hub.made and not hub.tokens and not hub.files


@pytest.mark.parametrize("hub", [{"public": True}], indirect=True)
def test_a_public_repository_is_filled_only_when_that_was_said(run: Path, hub: Hub, tmp_path: Path) -> None:
    done = export(run, hub, "push=me/student", f"out={tmp_path / 'out'}")
    assert done.returncode == 2 and "is there already and public" in done.stderr and not hub.files
    done = export(run, hub, "push=me/student", "public=true", f"out={tmp_path / 'again'}")
    assert done.returncode == 0 and "model.safetensors" in hub.files, done.stderr


@pytest.mark.parametrize("hub", [{"refuses": True}], indirect=True)
def test_a_refusal_is_a_sentence_with_the_way_out_and_the_folder_stays(run: Path, hub: Hub, tmp_path: Path) -> None:
    done = export(run, hub, "push=me/student", f"out={tmp_path / 'out'}")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"`hf upload me/student {tmp_path / 'out'} --private` tries again" in done.stderr
    assert (tmp_path / "out" / "config.json").exists() and "5ec2e7" not in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("push=student",), "says not whose it is"),
        (("push=me/stu/dent",), "is no name on a hub"),
        (("push='me/stu dent'",), "is no name on a hub"),
        (("public=true",), "give push=USER/NAME, too"),
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_is_written(
    run: Path, hub: Hub, tmp_path: Path, words: tuple[str, ...], reason: str
) -> None:
    done = export(run, hub, *words, f"out={tmp_path / 'out'}")
    assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "out").exists() and not hub.made


def test_without_a_token_nothing_is_begun(run: Path, tmp_path: Path) -> None:
    words = [f"run={run}", "push=me/student", f"out={tmp_path / 'out'}"]
    done = ekd("export", *words, cwd=run.parent, HF_TOKEN="", HF_HOME=str(tmp_path), HF_TOKEN_PATH=str(tmp_path / "no"))
    assert done.returncode == 2 and "needs a token that may write" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
