"""Build the wheel, install it alone into an empty environment, and see that `import tidings` is as light as it says."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {"tidings", "msgspec"}
RUNS = 7

# Names are looked at before anything else can load them, and the public names are asked for as well: they load their homes.
PROBE = """
import sys, time
before = set(sys.modules)
start = time.perf_counter()
import tidings
elapsed = time.perf_counter() - start
light = set(sys.modules) - before
for name in tidings.__all__:
    try:
        getattr(tidings, name)
    except ImportError as error:
        # Contracts need nothing more; who runs a service is told what to install.
        assert name in ("Service", "EnvironmentRouting") and "pip install 'tidings[sqlalchemy]'" in str(error), (name, error)
whole = set(sys.modules) - before
import json
foreign = lambda names: sorted({n.partition(".")[0] for n in names} - set(sys.stdlib_module_names))
print(json.dumps({"milliseconds": elapsed * 1000, "light": foreign(light), "whole": foreign(whole), "version": tidings.__version__}))
"""


def main() -> int:
    """Return 0 when the wheel works and loads nothing but what it may."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, ROOT)
        (wheel,) = directory.glob("tidings-*.whl")
        missing = _missing(wheel)
        venv.create(directory / "environment", with_pip=True)
        python = directory / "environment" / "bin" / "python"
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt", wheel)
        runs = [json.loads(_run(python, "-W", "error", "-c", PROBE)) for _ in range(RUNS)]
    best = min(run["milliseconds"] for run in runs)
    print(f"{wheel.name}: `import tidings` takes {best:.0f} ms (best of {RUNS}; goal: under 60) and loads {', '.join(runs[0]['light'])}")
    too_much = {package for run in runs for package in [*run["light"], *run["whole"]]} - ALLOWED
    if too_much:
        print(f"`import tidings` and its public names may not load {', '.join(sorted(too_much))}.")
        return 1
    if missing:
        print(f"{wheel.name} lacks files that are no modules: {', '.join(missing)}.")
        return 1
    if f"-{runs[0]['version']}-" not in wheel.name:
        print(f"The wheel is {wheel.name}, but tidings.__version__ is {runs[0]['version']}.")
        return 1
    return 0


def _missing(wheel: Path) -> list[str]:
    """Return what the sources have and the wheel has not: pages, scripts, and the licences of what is vendored."""
    source = ROOT / "src"
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    return sorted(wanted - set(zipfile.ZipFile(wheel).namelist()))


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, cwd=tempfile.gettempdir(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(map(str, command[:4]))} ...` failed with exit code {done.returncode}.")
    return done.stdout


sys.exit(main())
