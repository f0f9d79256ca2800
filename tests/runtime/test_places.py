"""Where people run it: each place ends with results, or with one line and exit code 1, and never with a traceback."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.live.run import COMMAND

STRANGER = "unshare -U --map-user=12345 --map-group=12345 env -u HOME -u XDG_CACHE_HOME -u HYBRID_EDGE_CACHE"


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        (f'TMPDIR=$PWD exec {STRANGER} "$@"', 0, ""),  # a container's user, whom /etc/passwd does not know
        ('HOME=/proc/none exec env -u XDG_CACHE_HOME -u HYBRID_EDGE_CACHE "$@"', 1, "HYBRID_EDGE_CACHE names another"),
        ('HYBRID_EDGE_CACHE="~nobody at all/c" exec "$@"', 2, "unknown home"),
        ('LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 exec "$@"', 0, ""),
        ('LC_ALL=xx_YY.UTF-9 PYTHONIOENCODING=latin-1:strict TZ=Mars/Olympus COLUMNS=abc TERM= exec "$@"', 0, ""),
        ('PYTHONOPTIMIZE=2 exec "$@"', 0, ""),
        ('umask 077; mkdir gone; cd gone; rmdir ../gone; exec "$@"', 0, ""),
        ('ulimit -n 64; exec "$@"', 0, ""),
        ('ulimit -f 1; exec "$@"', 1, "File too large"),
        ('exec env -i "PYTHONPATH=$PYTHONPATH" HYBRID_EDGE_CACHE="$PWD/c" "$@" <&-', 0, ""),
    ],
)
def test_a_packed_bundle_is_run_anywhere(place: str, code: int, said: str, packed: Path, photos: Path) -> None:
    if STRANGER in place and subprocess.run(STRANGER.split()[:4], check=False, stdin=subprocess.DEVNULL).returncode:
        pytest.skip("this machine lets nobody be a user of another number")
    odd = photos / "é\udcff 猫.png"  # is no UTF-8
    (photos / "img5.png").rename(odd)
    command = ["bash", "-c", place, "-", *COMMAND, photos, "--bundle", packed, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, cwd=packed.parent, env=os.environ
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (code, 0 if code else 12), done.stderr
    assert "Traceback" not in done.stderr
    assert (said in done.stderr, done.stderr.count("\n") == 1) == (True, bool(code)), done.stderr
