"""What a core install costs: megabytes on disk and seconds of `import tidemill`, in a new environment.

Standard library only. Run as `make size`; it uses the uv that `make setup` bootstrapped.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = ROOT / ".uv/bin/uv"
IMPORTS = 11
LIMIT_MB = 400
LIMIT_S = 0.3
TIMED_IMPORT = "import time; t = time.perf_counter(); import tidemill; print(time.perf_counter() - t)"
# Names are loaded when they are first used; this uses them all.
TIMED_NAMES = TIMED_IMPORT.replace("import tidemill;", "from tidemill import *;")


def megabytes(folder: Path) -> float:
    """Bytes of the files below `folder`, in units of 10**6, without byte code."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc") / 1e6


@dataclass(frozen=True)
class Size:
    """What was measured: `megabytes` in all and of each folder of site-packages, `seconds` of each import.

    `names_seconds` are of imports that load every public name, ONNX Runtime and PyArrow with them.
    """

    megabytes: float
    folders: dict[str, float]
    seconds: list[float]
    names_seconds: list[float]

    @property
    def within(self) -> bool:
        """Whether both limits are kept."""
        return self.megabytes <= LIMIT_MB and statistics.median(self.seconds) <= LIMIT_S


def measure(imports: int = IMPORTS) -> Size:
    """Install the locked core into a new environment and import it `imports` times."""
    if not UV.exists():
        raise SystemExit(f"{UV.relative_to(ROOT)} is not there: run `make setup` first.")
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        subprocess.run([UV, "venv", "-q", "--python", sys.executable, venv], check=True)
        python = venv / "bin/python"
        install = [UV, "pip", "install", "-q", "-p", python, "--link-mode=copy"]
        subprocess.run([*install, "--require-hashes", "-r", ROOT / "requirements/core.txt"], check=True)
        subprocess.run([*install, "--no-deps", ROOT], check=True)
        (site,) = venv.glob("lib/python*/site-packages")
        folders = {p.name: megabytes(p) for p in site.iterdir() if p.is_dir()}
        total = megabytes(site)
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

        def timed(program: str) -> list[float]:
            runs = [
                subprocess.run([python, "-c", program], cwd=folder, env=env, check=True, capture_output=True)
                for _ in range(imports + 1)
            ]
            return [float(run.stdout) for run in runs[1:]]  # the first one writes the byte code

        seconds, names_seconds = timed(TIMED_IMPORT), timed(TIMED_NAMES)
    return Size(total, folders, seconds, names_seconds)


def main() -> int:
    """Print both figures beside their limits; 1 when one is over."""
    found = measure()
    largest = sorted(found.folders.items(), key=lambda item: -item[1])[:5]
    print(f"core install: {found.megabytes:.0f} MB on disk without byte code (limit {LIMIT_MB})")
    print("  largest: " + ", ".join(f"{name} {size:.0f}" for name, size in largest))
    print(
        f"import tidemill: {statistics.median(found.seconds):.3f} s, median of {len(found.seconds)}, "
        f"{min(found.seconds):.3f} to {max(found.seconds):.3f} (limit {LIMIT_S}); "
        f"with all its names {statistics.median(found.names_seconds):.3f} s"
    )
    return int(not found.within)


if __name__ == "__main__":
    sys.exit(main())
