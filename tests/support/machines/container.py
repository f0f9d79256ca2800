"""The steps of a Dockerfile without docker, in root file systems of their own; then the container they make, at work.

    make container-cpu       # as root, on Debian: bootstrap with mmdebstrap, run with unshare and chroot

FROM debian:… is made by mmdebstrap from this machine's own mirror, RUN runs in a chroot with this machine's settings of
pip, COPY takes what .dockerignore lets through. What comes out runs as its USER, without a network but its loopback, on
a root that is read-only, and proves itself: a picture, the doctor, a camera under CMD with its HEALTHCHECK.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import cv2

from support.machines.dockerfile import Stage, parse

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "docs" / "containers" / "cpu.Dockerfile"
PLACE = ROOT / "build" / "container"
TOOLS = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2"}
SUITES = {"12": "bookworm", "13": "trixie"}
# what the slim images leave out, and keep apt from keeping
SLIM = (
    *[f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc")],
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--aptopt=DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; }',
    '--aptopt=Dir::Cache::pkgcache ""',
    '--aptopt=Dir::Cache::srcpkgcache ""',
)
HOST = "/run/host"  # where a step finds what this machine's pip needs; docker has something else there, or nothing
LOCAL = re.compile(r"(?:(?<=\s)|^)(file://|)(/[^\s:]+)")  # a path in pip's settings, or an address of one
CONFIG = "/etc/hybrid-edge"  # where the container's files are: camera.toml, bundle and picture
CACHE = "/var/cache/hybrid-edge"
PORT = 8000  # of the camera; nothing else listens in the container's own network
HEALTHY_WITHIN, UNHEALTHY_WITHIN = 60, 30  # seconds


def main() -> None:
    """Build, show what is how large, and run what was built in namespaces of its own."""
    if len(sys.argv) > 1:
        run_checks(parse(DOCKERFILE.read_text())[-1])
        return
    bundle = Path(os.environ["HYBRID_EDGE_TEST_BUNDLE"])
    if os.geteuid() or any(shutil.which(tool) is None for tool in TOOLS):
        fail(f"expected to be root on a Debian with {', '.join(dict.fromkeys(TOOLS.values()))}")
    start = time.monotonic()
    *_, final = stages = parse(DOCKERFILE.read_text())
    shutil.rmtree(PLACE, ignore_errors=True)
    for stage in stages:
        build(stage)
    say(f"== built in {time.monotonic() - start:.0f} s")
    show_sizes(PLACE / final.name)
    put_files(PLACE / final.name, bundle)
    own = ("--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--kill-child")
    sys.exit(subprocess.run(["unshare", *own, sys.executable, __file__, "inside"], check=False).returncode)


def say(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


def fail(message: str) -> NoReturn:
    sys.exit(f"make container-cpu: {message}")


def build(stage: Stage) -> None:
    """Make a stage's root file system: its base, then each of its steps."""
    say(f"== {stage.name}: FROM {stage.base}")
    root, folder = PLACE / stage.name, Path("/")
    root.mkdir(parents=True)
    run("tar", "--extract", "--file", base_archive(stage.base), "--directory", root)
    environment = stage.environment
    for name, argument in stage.steps:
        if name == "WORKDIR":
            folder = Path(argument)
            (root / folder.relative_to("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            copy(root, folder, argument)
        elif name == "RUN":
            say(f"== {stage.name}: RUN {argument[:100]}")
            run_step(root, folder, environment, argument)


def base_archive(image: str) -> Path:
    """Bootstrap a debian:VERSION-slim, or take what was bootstrapped before."""
    found = re.fullmatch(r"debian:(\d+)[.\d]*-slim", image)
    if not found:
        fail(f"expected FROM debian:VERSION-slim, found {image}")
    suite = SUITES[found[1]]
    archive = PLACE.with_name(f"container-{suite}.tar")
    if not archive.exists():
        listed = ("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
        mirrors = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
        if not mirrors:
            fail("expected apt sources of Debian, whose mirror serves the base as well; found none: apt-get update")
        run("mmdebstrap", "--quiet", "--variant=minbase", *SLIM, suite, archive, mirrors[0])
    return archive


def copy(root: Path, folder: Path, argument: str) -> None:
    """COPY from the checkout, of which .dockerignore names what goes in, or from another stage."""
    *sources, target = argument.split()
    there = root / (folder / target).relative_to("/")
    if sources[0].startswith("--from="):
        source = PLACE / sources[0].partition("=")[2] / sources[1].lstrip("/")
        run("cp", "--archive", "--no-target-directory", source, there)
        return
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [path for line in lines if line.startswith("!") for path in ROOT.glob(line[1:])]
    there.mkdir(parents=True, exist_ok=True)
    for source in sources:
        for path in allowed if source == "." else [ROOT / source]:
            place = there / path.relative_to(ROOT) if source == "." else there / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            run("cp", "--archive", path, place)
    for cached in there.rglob("__pycache__"):
        shutil.rmtree(cached)


def run_step(root: Path, folder: Path, environment: Mapping[str, str], command: str) -> None:
    """RUN: in a chroot, whose mounts are gone with the process, and with this machine's ways to its packages."""
    pip, bound = pip_settings()
    (root / "etc" / "resolv.conf").touch()
    lines = [f"mount --bind /dev {root}/dev", f"mount -t proc proc {root}/proc", f"mount -t tmpfs tmpfs {root}/run"]
    lines += [f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf"]
    for path in bound:
        there = f"{root}{HOST}{path}"
        lines += [f"mkdir -p {there}" if Path(path).is_dir() else f"install -D /dev/null {there}"]
        lines += [f"mount --bind {path} {there}"]
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    variables = [f"{name}={value}" for name, value in {**environment, **proxies, **pip}.items()]
    start = shlex.join(
        ["exec", "chroot", str(root), "env", "-i", "-C", str(folder), *variables, "/bin/sh", "-c", command]
    )
    run("unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", "\n".join([*lines, start]))


def pip_settings() -> tuple[dict[str, str], list[str]]:
    """This machine's settings of pip as variables, which no image keeps, and the paths that they name, below HOST."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE)
    settings, paths = {}, set()
    for name, value in found:
        # an index in a folder has its files beside it
        named = [Path(path).parent if scheme else Path(path) for scheme, path in LOCAL.findall(value)]
        paths |= {str(path) for path in named if path.exists()}
        settings[f"PIP_{name.upper().replace('-', '_')}"] = LOCAL.sub(rf"\1{HOST}\2", value)
    return settings, sorted(paths)


def show_sizes(root: Path) -> None:
    """Print the size of the root file system, and of its largest parts."""
    packages = next((root / "opt" / "hybrid-edge" / "lib").glob("python3*")) / "site-packages"
    sizes = {path: size(path) for path in packages.iterdir()}
    say(f"== {size(root):.0f} MB, of which /usr {size(root / 'usr'):.0f} MB, packages {sum(sizes.values()):.0f} MB")
    for path in sorted(sizes, key=lambda path: -sizes[path])[:8]:
        say(f"   {sizes[path]:6.1f} MB  {path.name}")


def size(path: Path) -> float:
    """Count the bytes of a file, or of all below a folder, in MB."""
    counted = subprocess.run(["du", "--summarize", "--bytes", path], capture_output=True, text=True, check=True)
    return int(counted.stdout.split()[0]) / 1e6


def put_files(root: Path, bundle: Path) -> None:
    """Put beside the configuration what docker would mount there: the bundle, and a golden example as a picture."""
    place = root / CONFIG.lstrip("/")
    place.mkdir()
    shutil.copy(bundle, place / "bundle.tar")
    with tarfile.open(bundle) as tar:
        example = next(member for member in tar if member.name.endswith(".png"))
        tar.extract(example, place)
    cv2.imwrite(str(place / "picture.jpg"), cv2.imread(str(place / example.name)))
    source = f'sources = ["http://127.0.0.1:{PORT}/picture.jpg"]'
    (place / "camera.toml").write_text(f'{source}\nbundle = "bundle.tar"\nheadless = true\njson = true\n')


def run(*command: object) -> None:
    """Run a command to its end; one that fails has said why."""
    arguments = [str(item) for item in command]
    if subprocess.run(arguments, cwd=ROOT, check=False).returncode:
        fail(f"{shlex.join(arguments[:3])} failed, see above")


def run_checks(stage: Stage) -> None:
    """In namespaces of its own: make the root read-only, and try what the container is for."""
    root = PLACE / stage.name
    close_root(root, stage.last("USER"))
    inside = Inside(root, stage)
    inside.expect("[ $(id -u) = 10001 ] && ! touch /opt/x /etc/x /var/x 2>/dev/null && touch /tmp/x " + CACHE + "/x")
    inside.expect(f"hybrid-infer {CONFIG}/picture.jpg --bundle {CONFIG}/bundle.tar --json")
    if (root / "opt" / "hybrid-edge" / "bin" / "hybrid-doctor").exists():
        inside.expect(f"hybrid-doctor --bundle {CONFIG}/bundle.tar")
    check_health(inside, json.loads(stage.last("CMD")), json.loads(stage.last("HEALTHCHECK").partition("CMD ")[2]))
    say("== the container works: not root, read-only root, no network but its own")


def close_root(root: Path, user: str) -> None:
    """As docker run --read-only --tmpfs /tmp does, with a volume for the cache and few devices."""
    owner = "uid={},gid={}".format(*user.split(":"))
    run("ip", "link", "set", "lo", "up")
    run("mount", "--bind", root, root)
    run("mount", "-o", "remount,bind,ro", root)
    for folder, options in {"tmp": "mode=1777", CACHE.lstrip("/"): f"mode=700,{owner}", "dev": "mode=755"}.items():
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", root / folder)
    run("mount", "-t", "proc", "proc", root / "proc")
    for device in ("null", "zero", "urandom"):
        (root / "dev" / device).touch()
        run("mount", "--bind", f"/dev/{device}", root / "dev" / device)


class Inside:
    """Runs commands as the container's user, in its environment, folder and root, without a way to more rights."""

    def __init__(self, root: Path, stage: Stage) -> None:
        variables = [f"{name}={value}" for name, value in stage.environment.items()]
        place = ("chroot", f"--userspec={stage.last('USER')}", str(root))
        self._start = ("setpriv", "--no-new-privs", *place, "env", "-i", "-C", stage.last("WORKDIR"), *variables)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._start, *command])

    def expect(self, command: str) -> None:
        """Run a line of shell, and end where it fails."""
        say(f"== {command}")
        if code := self.start(["/bin/sh", "-c", command]).wait():
            fail(f"exit code {code}, expected 0")


def check_health(inside: Inside, command: Sequence[str], check: Sequence[str]) -> None:
    """Start CMD on a camera; it must become healthy, unhealthy when the camera is gone, and end at a signal."""
    say(f"== {shlex.join(command)}")
    picture = ["python3", "-m", "http.server", str(PORT), "--bind", "127.0.0.1", "--directory", CONFIG]
    camera, classifying = inside.start([*picture]), inside.start(command)
    became(inside, check, 0, HEALTHY_WITHIN)
    camera.terminate()
    became(inside, check, 1, UNHEALTHY_WITHIN)
    classifying.send_signal(signal.SIGTERM)
    say(f"== SIGTERM: exit code {classifying.wait(timeout=10)}")
    became(inside, check, 1, 0)


def became(inside: Inside, check: Sequence[str], code: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while inside.start(check).wait() != code:
        if time.monotonic() > end:
            fail(f"the health check did not exit with {code} within {seconds:g} s")
        time.sleep(1)
    say(f"== the health check exits with {code}")


if __name__ == "__main__":
    main()
