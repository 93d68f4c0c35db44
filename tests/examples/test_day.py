"""`make sample`, as people run it: two processes, and HTTP between them and us."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]


def sample(*options: str, cwd: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "examples")])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "rentals", *options],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd), "PYTHONPATH": paths, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def test_a_day_ends_by_itself_and_everything_has_arrived(tmp_path: Path) -> None:
    process = sample("--once", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "Everything has arrived." in out
    assert "WRONG" not in out
    # Once, with the death of the mail that has no address.
    assert err.count("Traceback") == 1, err
    assert re.search(r"1  OrderCreated +rentals/hand-out, rentals/invoice", out)


def test_it_says_what_to_open_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    process = sample(cwd=tmp_path)
    assert process.stdout is not None
    said = ""
    while "Ctrl-C ends it" not in said:
        line = process.stdout.readline()
        assert line, "it ended by itself"
        said += line
    for url in re.findall(r"(http://\S+/docs)", said):
        assert httpx.get(url).is_success
    (store,) = re.findall(r"--store (\S+)", said)
    status = subprocess.run([sys.executable, "-m", "tidings", "status", "--store", store], capture_output=True, text=True, check=False)
    assert "notifications-archive" in status.stdout, status.stderr
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
