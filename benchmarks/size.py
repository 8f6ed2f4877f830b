"""What a core install costs: megabytes on disk and seconds of `import tidemill`, in a new environment.

Standard library only. Run as `make size`; it uses the uv that `make setup` bootstrapped.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = ROOT / ".uv/bin/uv"
IMPORTS = 11
LIMIT_MB = 400
LIMIT_S = 0.3
TIMED_IMPORT = "import time; t = time.perf_counter(); import tidemill; print(time.perf_counter() - t)"


def megabytes(folder: Path) -> float:
    """Bytes of the files below `folder`, in units of 10**6, without byte code."""
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc") / 1e6


def main() -> int:
    """Print both figures beside their limits; 1 when one is over."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder) / "venv"
        subprocess.run([UV, "venv", "-q", "--python", sys.executable, venv], check=True)
        python = venv / "bin/python"
        install = [UV, "pip", "install", "-q", "-p", python, "--link-mode=copy"]
        subprocess.run([*install, "--require-hashes", "-r", ROOT / "requirements/core.txt"], check=True)
        subprocess.run([*install, "--no-deps", ROOT], check=True)
        (site,) = venv.glob("lib/python*/site-packages")
        sizes = sorted(((megabytes(p), p.name) for p in site.iterdir() if p.is_dir()), reverse=True)
        total = megabytes(site)
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        run = [python, "-c", TIMED_IMPORT]
        times = [
            float(subprocess.run(run, cwd=folder, env=env, check=True, capture_output=True).stdout)
            for _ in range(IMPORTS + 1)
        ][1:]  # the first one writes the byte code
    seconds = statistics.median(times)
    print(f"core install: {total:.0f} MB on disk without byte code (limit {LIMIT_MB})")
    print("  largest: " + ", ".join(f"{name} {size:.0f}" for size, name in sizes[:5]))
    print(
        f"import tidemill: {seconds:.3f} s, median of {IMPORTS}, {min(times):.3f} to {max(times):.3f} (limit {LIMIT_S})"
    )
    return int(total > LIMIT_MB or seconds > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
