#!/usr/bin/env python3
"""Boots Debian's cloud kernels in qemu, without KVM, and runs our suites in them.

    run.py --kernels '6.1 6.12' --cgroups 'unified hybrid' [--quick] [--jobs 'kernel cases'] [--out target/kernels.md]

The machine's root is a file made here: busybox, the tools the suites call, their libraries, the kernel's modules, and our
programs at the paths they were built for. Nothing of the host is mounted. What a machine said is in target/kernels/NAME.log,
its kernel's messages in NAME.console. The table goes to --out, for the README. Exit code 0: everything passed.
"""

import argparse
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True
import archive  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target/kernels"
HERE = ROOT / "tests/kernels"
# The machine's clock goes as its instructions do, three of them a nanosecond: a busy host makes the run longer, and no limit inside
# is missed for it. Waiting costs nothing. The price is that there is one CPU.
CLOCK = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
CLOCK_BOOT = "tsc_early_khz=3000000 tsc=reliable clocksource=tsc"
# A machine that says nothing for so long hangs. No single test takes longer.
SILENCE = 1200
BOOT = 600

# Name, which suite it is, its arguments, limit in seconds. Left out everywhere, because emulation measures nothing by them:
# netns `scale` (tens of thousands of connections); of iptables and robust what compares clocks.
TIMED = "--skip scale:: --skip hostile:: --skip host:: --skip time:: --skip inject::"
JOBS = {
    "kernel": ("kernels", "--nocapture", 600),
    "neighbours": ("neighbours", "", 1800),
    "cases": ("cases", "every_case --nocapture", 3000),
    "netns": ("netns", TIMED, 3600),
    "iptables": ("iptables", TIMED, 1800),
    "parity": ("parity", "", 1800),
    "robust": ("robust", TIMED, 3600),
}
QUICK = ["kernel"]
# It kills the plugin at each of its system calls: hours in emulation. Run where it is named.
BY_NAME = ["robust"]
# Where eBPF cannot: suites that need it are not run.
WITHOUT_EBPF = ["kernel", "cases", "iptables"]
# And of `iptables` this one, in which a pod changes from one backend to the other.
NEEDS_EBPF = " --skip life::the_other_backends_parts_go"
# Rows of `cases` that a kernel cannot play: Debian has built 5.10 without MPTCP.
CASES_WITHOUT = {"5.10": "multipath"}
# The oldest kernel the eBPF backend is promised for.
OLDEST = (6, 1)


class Machine:
    """One boot: a kernel and a cgroup layout, and what `auto` must choose there."""

    def __init__(self, series, cgroup, jobs):
        self.series, self.cgroup, self.name = series, cgroup, f"{series}-{cgroup}"
        self.ebpf = tuple(map(int, series.split("."))) >= OLDEST
        self.jobs = [job for job in jobs if self.ebpf or job in WITHOUT_EBPF]
        self.results, self.release, self.booted, self.fault = {}, "", 0.0, ""


def say(text):
    print(text, flush=True)


def cache():
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shunt"
    return Path(os.environ.get("SHUNT_CACHE", default)) / "kernels"


def suites(wanted):
    """Builds the suites; name -> executable, `probe` among them."""
    command = [ROOT / "conf/cargo.sh", "test", "--no-run", "--message-format=json-render-diagnostics", "-p", "shunt-tests"]
    if os.environ.get("CI"):
        command.append("--locked")
    for suite in sorted(wanted):
        command += ["--test", suite]
    built = subprocess.run([*command, "--bin", "probe"], stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT)
    found = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            found[message["target"]["name"]] = Path(message["executable"])
    # Running a suite needs the helper as a program, not as its own tests.
    subprocess.run([ROOT / "conf/cargo.sh", "build", "--quiet", "-p", "shunt-tests", "--bin", "probe"], check=True, cwd=ROOT)
    found["probe"] = ROOT / "target/debug/probe"
    return found


TOOLS = ["ip", "nft", "bash", "unshare", "nsenter", "timeout", "sleep", "cat", "modprobe", "setpriv", "tc"]


def userland(programs):
    """The part of the root that is the same for every kernel."""
    made = archive.Archive()
    for name in ["dev", "proc", "sys", "tmp", "run", "root", "etc", "var/log", "bin/busybox.d", "sys/fs"]:
        made.directory(name)
    made.node("dev/console", 5, 1)
    made.file("init", (HERE / "init").read_bytes(), 0o755)
    made.path(Path("/bin/busybox"))
    for tool in TOOLS:
        found = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if found is None:
            sys.exit(f"no `{tool}` on this machine: run `make deps`")
        made.program(Path(found))
    for tool in sorted(Path("/usr/sbin").glob("*tables*")):
        made.program(tool)
    made.tree(Path("/usr/lib/x86_64-linux-gnu/xtables"))
    for library in Path("/usr/lib/x86_64-linux-gnu").glob("libnss_files*"):
        made.path(library)
    made.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    made.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    made.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nprotocols: files\n")
    for name in ["protocols", "services"]:
        if Path("/etc", name).is_file():
            made.path(Path("/etc", name))
    for name in ["shunt", "shuntctl", "shunt-installer"]:
        made.program(ROOT / "target/release" / name)
    made.directory(ROOT / "tests")
    stripped = WORK / "stripped"
    stripped.mkdir(exist_ok=True)
    for name, path in programs.items():
        thin = stripped / name
        subprocess.run(["strip", "-o", thin, path], check=True)
        made.program(thin, under=path)
    made.path(ROOT / "conf/differences.md")
    made.tree(ROOT / "conf/schemas")
    return made.bytes()


def modules(series):
    """The kernel's modules, those under net and drivers/net and what they need, as plain files."""
    cached = WORK / f"{series}.modules"
    release = (cache() / series / "release").read_text().strip()
    if cached.is_file() and cached.stat().st_mtime > (cache() / series / "release").stat().st_mtime:
        return cached.read_bytes()
    base = WORK / f"{series}.tree"
    shutil.rmtree(base, ignore_errors=True)
    into = base / "usr/lib/modules" / release
    source = cache() / series / "modules"
    wanted = ["kernel/net", "kernel/drivers/net", "kernel/lib", "kernel/crypto", "kernel/arch"]
    for path in source.rglob("*.ko*"):
        name = path.relative_to(source)
        if not any(name.is_relative_to(part) for part in wanted) or "ethernet" in name.parts or "wireless" in name.parts:
            continue
        data = path.read_bytes()
        if name.suffix == ".xz":
            data, name = lzma.decompress(data), name.with_suffix("")
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for path in source.glob("modules.*"):
        if path.name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copy(path, into / path.name)
    os.symlink("usr/lib", base / "lib")
    subprocess.run(["depmod", "-b", base, release], check=True)
    made = archive.Archive()
    made.tree(into, under=Path("/usr/lib/modules") / release)
    shutil.rmtree(base)
    cached.write_bytes(made.bytes())
    return cached.read_bytes()


def orders(machine, programs):
    """What this boot is to do."""
    made = archive.Archive()
    lines = []
    for job in machine.jobs:
        suite, arguments, patience = JOBS[job]
        if suite == "iptables" and not machine.ebpf:
            arguments += NEEDS_EBPF
        then = f"; code=$?; grep -E '^(FAILED|cases:)' {ROOT}/target/cases.txt; exit $code" if suite == "cases" else ""
        lines.append(f"{job} {patience} cd {ROOT}/tests && {programs[suite]} --test-threads=2 {arguments}{then}\n")
    made.file("plan", "".join(lines).encode())
    expected = "ebpf" if machine.ebpf else "iptables"
    settings = {
        "TESTS_MUST": "1",
        "SHUNT_TESTS_AUTO": expected,
        "PLANS": os.environ.get("PLANS", "200"),
        "SEED": os.environ.get("SEED", "1"),
    }
    if not machine.ebpf:
        settings["CASES_BACKENDS"] = "iptables"
    if machine.series in CASES_WITHOUT:
        settings["CASES_WITHOUT"] = CASES_WITHOUT[machine.series]
    made.file("environment", "".join(f"export {name}={value}\n" for name, value in settings.items()).encode())
    return made.bytes()


def boot(machine, initrd):
    """Runs the machine to its end and fills in its results."""
    console, log = WORK / f"{machine.name}.console", WORK / f"{machine.name}.log"
    for path in (console, log):
        path.write_bytes(b"")
    append = f"console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off init_on_alloc=0 apparmor=0 nowatchdog random.trust_cpu=on {CLOCK_BOOT} shunt.cgroup={machine.cgroup}"
    command = [
        "qemu-system-x86_64", *CLOCK, "-cpu", "max", "-m", "3G", "-nodefaults", "-display", "none",
        "-no-reboot", "-kernel", cache() / machine.series / "vmlinuz", "-initrd", initrd, "-append", append,
        "-serial", f"file:{console}", "-serial", f"file:{log}", "-device", "virtio-rng-pci",
    ]  # fmt: skip
    started = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    complaints = []
    reader = threading.Thread(target=lambda: complaints.append(child.stderr.read()), daemon=True)
    reader.start()
    heard, at, buffer, job = time.monotonic(), 0, b"", None
    try:
        while True:
            ended = child.poll() is not None
            with open(log, "rb") as file:
                file.seek(at)
                fresh = file.read()
            at += len(fresh)
            buffer += fresh
            if fresh:
                heard = time.monotonic()
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                job = hear(machine, job, line.decode(errors="replace").rstrip("\r"), time.monotonic() - started)
            if ended:
                break
            if not machine.release and time.monotonic() - started > BOOT:
                machine.fault = f"did not boot in {BOOT} s"
            elif time.monotonic() - heard > SILENCE:
                machine.fault = f"said nothing for {SILENCE} s"
            if machine.fault:
                break
            time.sleep(0.5)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(timeout=30)
    reader.join(timeout=5)
    if not machine.fault and set(machine.jobs) != {name for name, one in machine.results.items() if "code" in one}:
        machine.fault = "ended before its jobs did: a panic, or qemu failed"
    if machine.fault:
        tail = console.read_text(errors="replace").splitlines()[-25:]
        say(f"  {machine.name}: {machine.fault}; the end of its console ({console}):")
        say("\n".join(f"  | {line}" for line in tail))
        for text in complaints:
            if text:
                say(f"  qemu: {text.decode(errors='replace').strip()}")


def hear(machine, job, line, since):
    """A line of the machine's; returns the job it is in."""
    if line.startswith("@@ booted "):
        machine.release, machine.booted = line.split()[2], since
        say(f"  {machine.name}: {machine.release} is up after {since:.0f} s")
    elif line.startswith("@@ begin "):
        job = line.split()[2]
        machine.results[job] = {"passed": 0, "failed": 0, "bad": [], "notes": [], "since": since}
    elif line.startswith("@@ end ") and job:
        one = machine.results[job]
        fields = dict(part.split("=") for part in line.split()[3:])
        # Ours: the machine's own clock goes as its instructions do.
        one["code"], one["seconds"] = int(fields["code"]), round(since - one["since"])
        if one["code"] != 0 and not one["failed"]:
            one["failed"] = 1
            one["bad"].append("timed out" if one["code"] == 137 else f"ended with {one['code']}")
        say(f"  {machine.name}: {job}: {one['passed']} passed, {one['failed']} failed, {one['seconds']} s")
        for name in one["bad"]:
            say(f"    failed: {name}")
        job = None
    elif job:
        one = machine.results[job]
        result = re.match(r"test result: \w+\. (\d+) passed; (\d+) failed", line)
        if result:
            one["passed"], one["failed"] = map(int, result.groups())
        bad = re.match(r"test (\S+) .*\.\.\. FAILED", line)
        if bad:
            one["bad"].append(bad[1])
        note = re.match(r"(?:@ |cases: )(.*)", line)
        if note:
            one["notes"].append(note[1])
    return job


def cell(machine, job):
    one = machine.results.get(job)
    if job not in machine.jobs:
        return "–"
    if one is None or "code" not in one:
        return "not finished"
    passed, total = one["passed"], one["passed"] + one["failed"]
    for note in one["notes"]:
        counts = re.match(r"(\d+) of (\d+) as expected on ebpf, (\d+) of \d+ on iptables", note)
        if counts:
            ebpf, all_of, iptables = counts.groups()
            text = f"{ebpf} / {iptables} of {all_of}" if machine.ebpf else f"– / {iptables} of {all_of}"
            return f"{text}, {one['seconds']} s"
    return f"{passed} of {total}, {one['seconds']} s"


def table(machines):
    jobs = [job for job in JOBS if any(job in machine.jobs for machine in machines)]
    titles = {"kernel": "loads, probe, `auto`", "cases": "cases, eBPF / iptables"}
    head = ["kernel", "cgroups", "`auto` chooses", *(titles.get(job, job) for job in jobs)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    layouts = {"unified": "cgroup2 only", "hybrid": "v1 and cgroup2"}
    for machine in machines:
        chosen = next((n[6:] for n in machine.results.get("kernel", {}).get("notes", []) if n.startswith("auto: ")), "?")
        row = [machine.release or machine.series, layouts[machine.cgroup], chosen, *(cell(machine, job) for job in jobs)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--kernels", required=True, help="series, e.g. '6.1 6.12'")
    parse.add_argument("--cgroups", default="unified hybrid", help="unified: cgroup2 alone; hybrid: v1 controllers and cgroup2 beside them")
    parse.add_argument("--jobs", default="", help=f"of: {' '.join(JOBS)}")
    parse.add_argument("--quick", action="store_true", help=f"these jobs alone: {' '.join(QUICK)}")
    parse.add_argument("--out", type=Path, default=ROOT / "target/kernels.md")
    options = parse.parse_args()
    jobs = options.jobs.split() or (QUICK if options.quick else [job for job in JOBS if job not in BY_NAME])
    machines = [Machine(series, cgroup, jobs) for series in options.kernels.split() for cgroup in options.cgroups.split()]
    WORK.mkdir(parents=True, exist_ok=True)
    say("suites …")
    programs = suites({JOBS[job][0] for machine in machines for job in machine.jobs})
    same = userland(programs)
    for number, machine in enumerate(machines):
        say(f"{machine.name} ({number + 1} of {len(machines)}): {' '.join(machine.jobs)}")
        initrd = WORK / f"{machine.name}.initrd"
        with open(initrd, "wb") as file:
            for part in (same, modules(machine.series), orders(machine, programs)):
                file.write(part)
        boot(machine, initrd)
        initrd.unlink()
        options.out.write_text(table(machines[: number + 1]))
    say("\n" + table(machines))
    bad = [m for m in machines if m.fault or any(one.get("code") != 0 for one in m.results.values())]
    for machine in bad:
        say(f"{machine.name} FAILED; its output: {WORK / machine.name}.log")
    say(f"kernels: {len(machines) - len(bad)} of {len(machines)} machines passed; the table is {options.out}")
    return 1 if bad else 0


if __name__ == "__main__":
    # Ended from outside, it takes its machine along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
