"""Record the live table of a running sweep as docs/images/live-table.svg: `python docs/live_table.py`.

Runs the sweep of `make demo` in a terminal of its own and a new folder, and stops it after six trials: about a minute.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Final

import pexpect
from rich.console import Console
from rich.text import Text

PICTURE: Final = Path(__file__).parent / "images" / "live-table.svg"
COMMAND: Final = "optimize --trials 50 --study demo --exp 6 --model small --epochs 6 --workers 2 --dataset sample"
WIDTH: Final = 110
ROWS: Final = 30
ROW: Final = r"[^\r\n]+\r\n"
FRAME: Final = rf"running{ROW}{ROW}{ROW}[^\r\n]*6/50[^\r\n]*left *"  # six trials finished, two running
CONTROL: Final = re.compile(r"(\r\n|\r|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh])")


def on_screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after `output`, which rewrites its last lines as rich does."""
    lines = [""]
    row = 0
    for part in CONTROL.split(output):
        if part == "\r\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not CONTROL.fullmatch(part):
            lines[row] += part
    return [line for line in lines if line.strip()]


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as home:
        words = ["-m", "sweeper", *COMMAND.split(), "--tracking-uri", "offline"]
        child = pexpect.spawn(sys.executable, words, cwd=home, dimensions=(ROWS, WIDTH), timeout=600, encoding="utf-8")
        child.expect(FRAME)
        output = child.before + child.after
        child.sendintr()
        child.expect(pexpect.EOF)
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(f"$ sweeper {COMMAND}", highlight=False)
    for line in on_screen(output):
        console.print(Text.from_ansi(line), no_wrap=True)
    console.save_svg(str(PICTURE), title="sweeper optimize")


if __name__ == "__main__":
    main()
