"""The runner of the documentation's blocks: what runs, in which order, and that a wrong block fails."""

from pathlib import Path

import pytest

from tests.docs.blocks import Block, Page, blocks, commands

PAGE = """\
# A page

```python
x = 1
```

- in a list

  ```toml job.toml
  name = "a"
  ```

```sh
pip install something
```
"""


def test_blocks_are_found_in_order_with_their_lines() -> None:
    assert list(blocks(PAGE)) == [
        Block("python", "", "x = 1\n", 4),
        Block("toml", "job.toml", 'name = "a"\n', 10),
        Block("sh", "", "pip install something\n", 14),
    ]
    assert [block.runs for block in blocks(PAGE)] == [True, True, False]


def test_commands_are_the_prompted_lines_with_their_continuations() -> None:
    assert commands("$ one\noutput\n$ two \\\n    --flag\n$5 is no command\n") == [
        "one",
        "two \\\n    --flag",
    ]


def test_a_page_shares_one_namespace_and_one_folder(page: Page, page_folder: Path) -> None:
    with page:
        page.run(Block("python", "", "x = 20\n", 1))
        page.run(Block("python", "", "from pathlib import Path\nPath('x').write_text(str(x + 1))\n", 1))
        page.run(Block("console", "", "$ grep -q 21 x\n$ cp x y\n", 1))
    assert (page_folder / "y").read_text() == "21"


def test_a_failing_block_names_page_line_and_output(page: Page) -> None:
    with page, pytest.raises(AssertionError, match=r":7: `echo why; exit 3` ended with 3:\nwhy"):
        page.run(Block("console", "", "$ echo why; exit 3\n", 7))
    with page, pytest.raises(ZeroDivisionError):
        page.run(Block("python", "", "1 / 0\n", 1))


def test_a_server_that_ends_at_once_is_a_failure(page: Page) -> None:
    with page, pytest.raises(AssertionError, match="ended with"):
        page.run(Block("console", "", "$ true &\n", 1))


def test_a_server_runs_until_its_page_ends(page: Page, page_folder: Path) -> None:
    (page_folder / "server.py").write_text(
        "import http.server, signal, sys\n"
        "class Ready(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Ready).serve_forever()\n"
    )
    with page:
        page.run(Block("console", "", "$ python server.py 8080 &\n$ curl -sf 127.0.0.1:8080/v2/health/ready\n", 1))
    assert page.running[0].returncode == 0
