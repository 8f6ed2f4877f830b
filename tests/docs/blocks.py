"""The fenced blocks of a Markdown page, and running them as a reader would: top to bottom, in one folder.

```python            runs; all of a page share one namespace
```console           each line after `$ ` runs in bash, `\\` continues it; ` &` leaves it running
```toml job.toml     (any language, then a file name) is written to that file
anything else        is shown only
"""

import os
import re
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
DOCUMENTED_PORT = "8080"
DOCUMENTED_MANAGEMENT_PORT = "9090"


@dataclass(frozen=True)
class Block:
    """One block: its language, the file it is written to (or ""), its text and the line it begins on."""

    language: str
    file: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        return bool(self.file) or self.language in ("python", "console")


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for match in FENCE.finditer(markdown):
        language, _, file = match["info"].strip().partition(" ")
        yield Block(language, file.strip(), textwrap.dedent(match["body"]), markdown.count("\n", 0, match.start()) + 2)


def commands(text: str) -> list[str]:
    """The commands of a console block: what stands after `$ `, continued while a line ends in a backslash."""
    return [match[1] for match in re.finditer(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)$", text, re.MULTILINE)]


class Page:
    """Runs the blocks of one page in one folder; what they left running ends with the page."""

    def __init__(self, name: str, folder: Path, port: int, management_port: int) -> None:
        self.name, self.folder, self.port, self.management_port = name, folder, port, management_port
        self.namespace: dict[str, object] = {"__name__": name}
        self.running: list[subprocess.Popen[bytes]] = []
        self.env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            assert process.wait(30) == 0, f"{self.name}: `{process.args}` did not end well"

    def run(self, block: Block) -> None:
        """Run one block; AssertionError or the block's own exception when it fails."""
        text = block.text.replace(DOCUMENTED_PORT, str(self.port))
        text = text.replace(DOCUMENTED_MANAGEMENT_PORT, str(self.management_port))
        if block.file:
            (self.folder / block.file).write_text(text)
        elif block.language == "python":
            # Blank lines before the code: a traceback then names the line of the page.
            exec(compile("\n" * (block.line - 1) + text, self.name, "exec"), self.namespace)
        elif block.language == "console":
            for command in commands(text):
                self._shell(command, f"{self.name}:{block.line}")

    def _shell(self, command: str, where: str) -> None:
        if command.endswith(" &"):
            serve = command.removesuffix(" &")
            if serve.startswith("tidemill serve") and "--port" not in serve:
                serve += f" --port {self.port}"
            process = subprocess.Popen(["bash", "-c", f"exec {serve}"], cwd=self.folder, env=self.env)
            self.running.append(process)
            self._wait_until_ready(process, where)
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{where}: `{command}` ended with {done.returncode}:\n{done.stdout}"

    def _wait_until_ready(self, process: subprocess.Popen[bytes], where: str) -> None:
        for _ in range(300):
            assert process.poll() is None, f"{where}: `{process.args}` ended with {process.returncode}"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=5).close()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"{where}: `{process.args}` was not ready after 30 s")
